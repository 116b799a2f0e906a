//! What is written of a request, and when.

use super::*;

#[test]
fn requests_are_written_in_full_and_in_order() {
    let long = "x".repeat(100_000);
    let plain = |length| {
        format!(
            "POST /v1/chat?x=1 HTTP/1.1\r\nhost: provider:8080\r\nx-custom: yes\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let head = "host: provider:8080\r\nx-custom: yes\r\n";
    let credentials = Some(HeaderValue::from_static("Basic eDp5"));
    for (request, expect) in [
        (post("hi"), plain(2) + "hi"),
        (post(&long), plain(100_000) + &long),
        (post(""), plain(0)),
        (
            request(&Method::GET, []),
            format!("GET /v1/chat?x=1 HTTP/1.1\r\n{head}\r\n"),
        ),
        (
            request(&Method::GET, []).for_proxy("provider", credentials),
            format!(
                "GET http://provider/v1/chat?x=1 HTTP/1.1\r\n{head}proxy-authorization: Basic eDp5\r\n\r\n"
            ),
        ),
    ] {
        let provider = Provider::new(["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"], false);
        let mut http1 = Http1::new(provider.clone());
        let response = send(&mut http1, request).unwrap().ok().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(
            provider.received() == expect,
            "{}",
            &expect[..expect.len().min(200)]
        );
        assert!(http1.is_free());
        // A second request on the same connection.
        provider.send(["HTTP/1.1 201 OK\r\ncontent-length: 0\r\n\r\n"]);
        let second = send(&mut http1, post("hi")).unwrap().ok().unwrap();
        assert_eq!(second.status(), StatusCode::CREATED);
        assert!(provider.received() == plain(2) + "hi");
    }
}

#[test]
fn a_response_counts_even_if_the_request_was_not_read_to_its_end() {
    let long = "x".repeat(100_000);
    let sent = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno";
    let provider = Provider::new([sent], true);
    provider.0.lock().unwrap().reads = Some(5000);
    let mut http1 = Http1::new(provider);
    let response = send(&mut http1, post(&long)).unwrap().ok().unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let body = now(poll_fn(|cx| http1.poll_data(cx))).unwrap().unwrap();
    assert_eq!(body.unwrap(), "no");
    assert!(
        http1.is_body_done() && !http1.is_free(),
        "the request is incomplete"
    );
}

#[test]
fn a_failed_call_says_how_far_it_got() {
    for (reads, sent, request_begun, response_begun) in [
        (Some(0), "", false, false),
        (Some(10), "", true, false),
        (None, "", true, false),
        (None, "HTTP/1.1 2", true, true),
    ] {
        let provider = Provider::new([sent], true);
        provider.0.lock().unwrap().reads = reads;
        let mut http1 = Http1::new(provider);
        assert!(send(&mut http1, post("hi")).unwrap().is_err());
        let seen = (http1.request_begun, http1.response_begun);
        assert_eq!(seen, (request_begun, response_begun), "{reads:?} {sent:?}");
    }
}

#[test]
fn the_rest_of_a_request_is_written_while_its_response_arrives() {
    let long = "x".repeat(100_000);
    for breaks in [false, true] {
        let provider = Provider::new(["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"], false);
        {
            let mut state = provider.0.lock().unwrap();
            (state.reads, state.waits) = (Some(5000), true);
        }
        let mut http1 = Http1::new(provider.clone());
        let head = send(&mut http1, post(&long)).unwrap();
        assert_eq!(head.ok().unwrap().status(), StatusCode::OK);
        assert!(now(poll_fn(|cx| http1.poll_data(cx))).is_none());
        {
            let mut state = provider.0.lock().unwrap();
            (state.reads, state.waits) = (state.reads.filter(|_| breaks), false);
        }
        assert!(now(poll_fn(|cx| http1.poll_data(cx))).is_none());
        let all_arrived = provider.received().ends_with(&long);
        provider.0.lock().unwrap().reads = None;
        provider.send(["ok"]);
        let body = now(poll_fn(|cx| http1.poll_data(cx))).unwrap().unwrap();
        assert_eq!(body.unwrap(), "ok");
        assert!(http1.is_body_done());
        assert_eq!((all_arrived, http1.is_free()), (!breaks, !breaks));
    }
}

#[test]
fn a_target_that_would_break_the_request_line_is_refused() {
    for target in ["/a b", "/a\r\nx: y", "/a\n", "/\0", "/\x7f", "*", ""] {
        let request = UpstreamRequest::new(
            &Method::GET,
            target.to_owned(),
            &HOST,
            Vec::new(),
            RequestBody::default(),
        );
        assert!(request.is_none(), "{target:?}");
    }
}
