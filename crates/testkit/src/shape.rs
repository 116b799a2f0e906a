//! Cuts a response into timed pieces, and breaks it where a scripted step says. Pure.
//!
//! This module must never know of sockets or of any provider's wire format.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::script::{Behaviour, Step};

/// A response body before it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Sent at once, with a `content-length`.
    Whole(Bytes),
    /// Sent as chunks, one per event.
    Stream(Vec<Bytes>),
}

/// Bytes to send, and the pause before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) pause: Duration,
    pub(crate) bytes: Bytes,
}

/// What happens after the last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The response ends properly.
    Complete,
    /// The connection is closed without an end.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing more is sent, and the connection stays open.
    Stall,
}

/// A body that is ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shaped {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) ending: Ending,
    /// The `content-length`; `None` for chunked.
    pub(crate) length: Option<u64>,
    /// Whether each piece is written before the next is taken, so that a reader can receive it alone.
    pub(crate) flush_each: bool,
}

/// Cuts `content` as `step` and `behaviour` require.
pub(crate) fn shape(content: Content, step: &Step, behaviour: &Behaviour) -> Shaped {
    match content {
        Content::Whole(body) => shape_whole(body, step),
        Content::Stream(events) => shape_stream(events, step, behaviour),
    }
}

fn shape_whole(body: Bytes, step: &Step) -> Shaped {
    let length = Some(body.len() as u64);
    let half = body.slice(..body.len() / 2);
    let (bytes, ending) = match step {
        Step::CutAfter(_) | Step::CutMidEvent(_) => (half, Ending::Close),
        Step::StallAfter(_) => (half, Ending::Stall),
        Step::ResetMidBody => (half, Ending::Reset),
        Step::Prelude { text, pause } => {
            let pieces = vec![
                at_once(Bytes::from(text.clone())),
                Piece {
                    pause: *pause,
                    bytes: body,
                },
            ];
            return Shaped {
                pieces,
                ending: Ending::Complete,
                length: None,
                flush_each: false,
            };
        }
        _ => (body, Ending::Complete),
    };
    let pieces = if bytes.is_empty() {
        Vec::new()
    } else {
        vec![at_once(bytes)]
    };
    Shaped {
        pieces,
        ending,
        length,
        flush_each: false,
    }
}

fn shape_stream(mut events: Vec<Bytes>, step: &Step, behaviour: &Behaviour) -> Shaped {
    let ending = match step {
        Step::CutAfter(n) => cut(&mut events, *n, Ending::Close),
        Step::StallAfter(n) => cut(&mut events, *n, Ending::Stall),
        Step::ResetMidBody => {
            let half = events.len().div_ceil(2);
            cut(&mut events, half, Ending::Reset)
        }
        Step::CutMidEvent(n) => {
            let part = events.get(*n).map(|event| event.slice(..event.len() / 2));
            events.truncate(*n);
            events.extend(part);
            Ending::Close
        }
        _ => Ending::Complete,
    };
    let mut pieces = paced(events, behaviour);
    if let Step::Prelude { text, pause } = step {
        if let Some(first) = pieces.first_mut() {
            first.pause = *pause;
        }
        pieces.insert(0, at_once(Bytes::from(text.clone())));
    }
    Shaped {
        pieces,
        ending,
        length: None,
        flush_each: behaviour.split.is_some(),
    }
}

fn cut(events: &mut Vec<Bytes>, keep: usize, ending: Ending) -> Ending {
    events.truncate(keep);
    ending
}

fn at_once(bytes: Bytes) -> Piece {
    Piece {
        pause: Duration::ZERO,
        bytes,
    }
}

/// Spaces events by their interval. With `split`, each is cut into pieces; without an interval, the cuts ignore event ends.
fn paced(events: Vec<Bytes>, behaviour: &Behaviour) -> Vec<Piece> {
    let size = behaviour.split.map(|size| size.max(1));
    if let Some(size) = size.filter(|_| behaviour.chunk_interval.is_zero()) {
        let mut all = BytesMut::with_capacity(events.iter().map(Bytes::len).sum());
        events.iter().for_each(|event| all.extend_from_slice(event));
        return pieces_of(all.freeze(), size).map(at_once).collect();
    }
    let mut pieces = Vec::with_capacity(events.len());
    for (n, event) in events.into_iter().enumerate() {
        let pause = if n == 0 {
            Duration::ZERO
        } else {
            behaviour.chunk_interval
        };
        let whole = size.unwrap_or(event.len().max(1));
        let parts = pieces_of(event, whole).enumerate();
        pieces.extend(parts.map(|(part, bytes)| Piece {
            pause: if part == 0 { pause } else { Duration::ZERO },
            bytes,
        }));
    }
    pieces
}

fn pieces_of(bytes: Bytes, size: usize) -> impl Iterator<Item = Bytes> {
    (0..bytes.len())
        .step_by(size)
        .map(move |from| bytes.slice(from..bytes.len().min(from + size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Content {
        Content::Stream(
            ["data: aa\n\n", "data: bb\n\n", "data: cc\n\n"]
                .map(Bytes::from)
                .to_vec(),
        )
    }

    fn texts(shaped: &Shaped) -> Vec<&str> {
        shaped
            .pieces
            .iter()
            .map(|piece| std::str::from_utf8(&piece.bytes).unwrap())
            .collect()
    }

    #[test]
    fn steps_break_streams_at_their_event() {
        let (a, b, c) = ("data: aa\n\n", "data: bb\n\n", "data: cc\n\n");
        for (step, expect, ending) in [
            (Step::Answer, vec![a, b, c], Ending::Complete),
            (Step::CutAfter(0), vec![], Ending::Close),
            (Step::CutAfter(2), vec![a, b], Ending::Close),
            (Step::CutAfter(9), vec![a, b, c], Ending::Close),
            (Step::CutMidEvent(1), vec![a, "data:"], Ending::Close),
            (Step::CutMidEvent(9), vec![a, b, c], Ending::Close),
            (Step::StallAfter(1), vec![a], Ending::Stall),
            (Step::ResetMidBody, vec![a, b], Ending::Reset),
        ] {
            let shaped = shape(stream(), &step, &Behaviour::default());
            assert_eq!(texts(&shaped), expect, "{step:?}");
            assert_eq!((shaped.ending, shaped.length), (ending, None), "{step:?}");
        }
    }

    #[test]
    fn steps_cut_whole_responses_in_half_but_keep_their_length() {
        for (step, expect, ending) in [
            (Step::Answer, "12345678", Ending::Complete),
            (Step::CutAfter(3), "1234", Ending::Close),
            (Step::CutMidEvent(0), "1234", Ending::Close),
            (Step::StallAfter(0), "1234", Ending::Stall),
            (Step::ResetMidBody, "1234", Ending::Reset),
        ] {
            let shaped = shape(
                Content::Whole(Bytes::from("12345678")),
                &step,
                &Behaviour::default(),
            );
            assert_eq!(texts(&shaped), [expect], "{step:?}");
            assert_eq!(
                (shaped.ending, shaped.length),
                (ending, Some(8)),
                "{step:?}"
            );
        }
    }

    #[test]
    fn split_cuts_at_any_byte_and_keeps_all_bytes() {
        for size in 1..40 {
            for interval in [Duration::ZERO, Duration::from_millis(5)] {
                let behaviour = Behaviour {
                    split: Some(size),
                    chunk_interval: interval,
                    ..Behaviour::default()
                };
                let shaped = shape(stream(), &Step::Answer, &behaviour);
                assert_eq!(
                    texts(&shaped).concat(),
                    "data: aa\n\ndata: bb\n\ndata: cc\n\n"
                );
                assert!(texts(&shaped).iter().all(|text| text.len() <= size) && shaped.flush_each);
                let pauses: Duration = shaped.pieces.iter().map(|piece| piece.pause).sum();
                assert_eq!(pauses, interval * 2);
            }
        }
    }

    #[test]
    fn a_prelude_is_sent_first_and_the_response_after_its_pause() {
        let pause = Duration::from_secs(1);
        let step = Step::Prelude {
            text: "\n\n".to_owned(),
            pause,
        };
        for content in [stream(), Content::Whole(Bytes::from("{}"))] {
            let shaped = shape(content, &step, &Behaviour::default());
            assert_eq!(shaped.pieces[0], at_once(Bytes::from("\n\n")));
            assert_eq!((shaped.pieces[1].pause, shaped.length), (pause, None));
        }
    }
}
