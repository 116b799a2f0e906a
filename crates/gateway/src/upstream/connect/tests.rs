//! SOCKS proxies and names with several addresses, against a small proxy on loopback.

use std::collections::VecDeque;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What the proxy does with one request.
#[derive(Clone, Copy)]
enum Action {
    Open,
    /// With this reply code (RFC 1928 §6).
    Refuse(u8),
    Hang,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Accepts one connection after the other and does the next action with each. Returns the requested addresses and the
/// connections, which keeps them open.
async fn socks(listener: TcpListener, mut plan: VecDeque<Action>) -> (Vec<IpAddr>, Vec<TcpStream>) {
    let (mut requested, mut open) = (Vec::new(), Vec::new());
    while let Some(action) = plan.pop_front() {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 3];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(&[5, 0]).await.unwrap();
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.unwrap();
        requested.push(match head[3] {
            1 => IpAddr::from(<[u8; 4]>::try_from(read(&mut stream, 4).await).unwrap()),
            4 => IpAddr::from(<[u8; 16]>::try_from(read(&mut stream, 16).await).unwrap()),
            other => panic!("not an address: type {other}"),
        });
        assert_eq!(read(&mut stream, 2).await, 443u16.to_be_bytes());
        let code = match action {
            Action::Open => 0,
            Action::Refuse(code) => code,
            Action::Hang => {
                open.push(stream);
                continue;
            }
        };
        let reply = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
        stream.write_all(&reply).await.unwrap();
        open.push(stream);
    }
    (requested, open)
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Connects to one of `addresses`: the result, and the addresses that the proxy was asked for.
async fn connect(
    addresses: &[IpAddr],
    plan: &[Action],
    limit: Duration,
) -> (io::Result<Socket>, Vec<IpAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("socks5://{}", listener.local_addr().unwrap());
    let proxy: ProxyUrl = url.parse().unwrap();
    let connector = Connector::new(&Telemetry::default());
    let time = TimeLimit {
        by: Instant::now() + limit,
        limit,
    };
    let opening = connector.through_socks(&proxy, addresses, 443, time);
    let plan = plan.iter().copied().collect();
    let (opened, (requested, _open)) = tokio::join!(opening, socks(listener, plan));
    (opened, requested)
}

#[tokio::test]
async fn a_socks_proxy_is_asked_for_each_address_until_one_connects() {
    let all = [ip("2001:db8::1"), ip("192.0.2.1"), ip("192.0.2.2")];
    let minute = Duration::from_secs(60);
    for (plan, opens) in [
        (&[Action::Open][..], true),
        (&[Action::Refuse(4), Action::Open], true),
        (&[Action::Refuse(3), Action::Refuse(5), Action::Open], true),
        (
            &[Action::Refuse(3), Action::Refuse(5), Action::Refuse(4)],
            false,
        ),
    ] {
        let (opened, requested) = connect(&all, plan, minute).await;
        assert_eq!(requested, all[..plan.len()]);
        match opened {
            Ok(_) => assert!(opens),
            Err(error) => {
                assert!(!opens, "{error}");
                let text = error.to_string();
                assert!(text.contains("opened no tunnel to 192.0.2.2:443"), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn an_address_that_hangs_leaves_time_for_the_others() {
    let all = [ip("192.0.2.1"), ip("2001:db8::1")];
    let limit = Duration::from_secs(2);
    let (opened, requested) = connect(&all, &[Action::Hang, Action::Open], limit).await;
    assert!(opened.is_ok(), "{}", opened.err().unwrap());
    assert_eq!(requested, all);

    let began = Instant::now();
    let (opened, requested) = connect(&all, &[Action::Hang, Action::Hang], limit).await;
    let least = limit - Duration::from_millis(10);
    assert!(began.elapsed() >= least, "the whole time is used");
    let error = opened.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let text = error.to_string();
    assert!(
        text.contains("the proxy socks5://127.0.0.1:")
            && text.contains("opened no tunnel to [2001:db8::1]:443 within"),
        "{text}"
    );
    assert_eq!(requested, all);
}

#[test]
fn address_families_alternate_up_to_a_maximum() {
    let (a, b, c) = (ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3"));
    let (x, y) = (ip("2001:db8::1"), ip("2001:db8::2"));
    for (found, expect) in [
        (vec![], vec![]),
        (vec![a], vec![a]),
        (vec![a, b, x], vec![a, x, b]),
        (vec![x, y, a, b, c], vec![x, a, y, b, c]),
        (vec![x, a, b, c], vec![x, a, b, c]),
    ] {
        assert_eq!(alternate_families(found.into_iter()), expect);
    }
    let many = (0..100).map(|n| IpAddr::from([192, 0, 2, n]));
    assert_eq!(alternate_families(many).len(), MAX_ADDRESSES);
}
