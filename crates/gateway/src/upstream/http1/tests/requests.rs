//! What is written of a request, and when.

use super::*;

#[test]
fn requests_are_written_as_they_are() {
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
            ask(&Method::GET, []),
            format!("GET /v1/chat?x=1 HTTP/1.1\r\n{head}\r\n"),
        ),
        (
            ask(&Method::GET, []).for_proxy("provider", credentials),
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
            provider.told() == expect,
            "{}",
            &expect[..expect.len().min(200)]
        );
        assert!(http1.is_free());
        // And another.
        provider.say(["HTTP/1.1 201 OK\r\ncontent-length: 0\r\n\r\n"]);
        let second = send(&mut http1, post("hi")).unwrap().ok().unwrap();
        assert_eq!(second.status(), StatusCode::CREATED);
        assert!(provider.told() == plain(2) + "hi");
    }
}

#[test]
fn a_provider_that_takes_no_more_of_a_request_is_heard_all_the_same() {
    let long = "x".repeat(100_000);
    let says = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno";
    let provider = Provider::new([says], true);
    provider.0.lock().unwrap().takes = Some(5000);
    let mut http1 = Http1::new(provider);
    let response = send(&mut http1, post(&long)).unwrap().ok().unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let body = now(poll_fn(|cx| http1.poll_data(cx))).unwrap().unwrap();
    assert_eq!(body.unwrap(), "no");
    assert!(
        http1.is_done() && !http1.is_free(),
        "the rest of the request is owed"
    );
}

#[test]
fn it_is_known_what_a_provider_may_have_seen_of_a_request() {
    for (takes, says, has_begun, is_answered) in [
        (Some(0), "", false, false),
        (Some(10), "", true, false),
        (None, "", true, false),
        (None, "HTTP/1.1 2", true, true),
    ] {
        let provider = Provider::new([says], true);
        provider.0.lock().unwrap().takes = takes;
        let mut http1 = Http1::new(provider);
        assert!(send(&mut http1, post("hi")).unwrap().is_err());
        let seen = (http1.has_begun(), http1.is_answered());
        assert_eq!(seen, (has_begun, is_answered), "{takes:?} {says:?}");
    }
}

#[test]
fn the_rest_of_a_request_is_written_while_its_answer_comes() {
    let long = "x".repeat(100_000);
    for breaks in [false, true] {
        let provider = Provider::new(["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"], false);
        {
            let mut state = provider.0.lock().unwrap();
            (state.takes, state.waits) = (Some(5000), true);
        }
        let mut http1 = Http1::new(provider.clone());
        let head = send(&mut http1, post(&long)).unwrap();
        assert_eq!(head.ok().unwrap().status(), StatusCode::OK);
        assert!(now(poll_fn(|cx| http1.poll_data(cx))).is_none());
        {
            let mut state = provider.0.lock().unwrap();
            (state.takes, state.waits) = (state.takes.filter(|_| breaks), false);
        }
        assert!(now(poll_fn(|cx| http1.poll_data(cx))).is_none());
        let all_came = provider.told().ends_with(&long);
        provider.0.lock().unwrap().takes = None;
        provider.say(["ok"]);
        let body = now(poll_fn(|cx| http1.poll_data(cx))).unwrap().unwrap();
        assert_eq!(body.unwrap(), "ok");
        assert!(http1.is_done());
        assert_eq!((all_came, http1.is_free()), (!breaks, !breaks));
    }
}

#[test]
fn a_target_that_would_end_the_line_is_not_sent() {
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
