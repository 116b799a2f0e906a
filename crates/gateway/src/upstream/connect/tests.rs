//! The way through a SOCKS proxy to a name with more than one address, against a small proxy on loopback.

use std::collections::VecDeque;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What the proxy does with one request.
#[derive(Clone, Copy)]
enum Does {
    Opens,
    /// With this reply code (RFC 1928 §6).
    Refuses(u8),
    Nothing,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Takes one connection after the other and does with each what is next; gives the addresses that were asked for, and
/// the connections, which stay open as long.
async fn socks(listener: TcpListener, mut plan: VecDeque<Does>) -> (Vec<IpAddr>, Vec<TcpStream>) {
    let (mut asked, mut open) = (Vec::new(), Vec::new());
    while let Some(does) = plan.pop_front() {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 3];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(&[5, 0]).await.unwrap();
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.unwrap();
        asked.push(match head[3] {
            1 => IpAddr::from(<[u8; 4]>::try_from(read(&mut stream, 4).await).unwrap()),
            4 => IpAddr::from(<[u8; 16]>::try_from(read(&mut stream, 16).await).unwrap()),
            other => panic!("no address but kind {other}"),
        });
        assert_eq!(read(&mut stream, 2).await, 443u16.to_be_bytes());
        let code = match does {
            Does::Opens => 0,
            Does::Refuses(code) => code,
            Does::Nothing => {
                open.push(stream);
                continue;
            }
        };
        let reply = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
        stream.write_all(&reply).await.unwrap();
        open.push(stream);
    }
    (asked, open)
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// What comes of asking for `addresses`, and which of them were asked for.
async fn ask(
    addresses: &[IpAddr],
    plan: &[Does],
    limit: Duration,
) -> (io::Result<Socket>, Vec<IpAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("socks5://{}", listener.local_addr().unwrap());
    let proxy: ProxyUrl = url.parse().unwrap();
    let connector = Connector::new(&Telemetry::default());
    let time = Time {
        by: Instant::now() + limit,
        limit,
    };
    let opening = connector.by_addresses(&proxy, addresses, 443, time);
    let plan = plan.iter().copied().collect();
    let (opened, (asked, _open)) = tokio::join!(opening, socks(listener, plan));
    (opened, asked)
}

#[tokio::test]
async fn a_socks_proxy_is_asked_for_each_address_until_one_leads_there() {
    let all = [ip("2001:db8::1"), ip("192.0.2.1"), ip("192.0.2.2")];
    let minute = Duration::from_secs(60);
    for (plan, opens) in [
        (&[Does::Opens][..], true),
        (&[Does::Refuses(4), Does::Opens], true),
        (&[Does::Refuses(3), Does::Refuses(5), Does::Opens], true),
        (
            &[Does::Refuses(3), Does::Refuses(5), Does::Refuses(4)],
            false,
        ),
    ] {
        let (opened, asked) = ask(&all, plan, minute).await;
        assert_eq!(asked, all[..plan.len()]);
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
async fn an_address_that_hangs_leaves_the_others_their_time() {
    let all = [ip("192.0.2.1"), ip("2001:db8::1")];
    let limit = Duration::from_secs(2);
    let (opened, asked) = ask(&all, &[Does::Nothing, Does::Opens], limit).await;
    assert!(opened.is_ok(), "{}", opened.err().unwrap());
    assert_eq!(asked, all);

    let began = Instant::now();
    let (opened, asked) = ask(&all, &[Does::Nothing, Does::Nothing], limit).await;
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
    assert_eq!(asked, all);
}

#[test]
fn the_families_take_turns_and_no_more_are_tried_than_there_is_time_for() {
    let (a, b, c) = (ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3"));
    let (x, y) = (ip("2001:db8::1"), ip("2001:db8::2"));
    for (found, expect) in [
        (vec![], vec![]),
        (vec![a], vec![a]),
        (vec![a, b, x], vec![a, x, b]),
        (vec![x, y, a, b, c], vec![x, a, y, b, c]),
        (vec![x, a, b, c], vec![x, a, b, c]),
    ] {
        assert_eq!(families_in_turn(found.into_iter()), expect);
    }
    let many = (0..100).map(|n| IpAddr::from([192, 0, 2, n]));
    assert_eq!(families_in_turn(many).len(), MAX_ADDRESSES);
}
