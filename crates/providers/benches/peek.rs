//! The cost of looking at a request's body: a small call, pictures in base64, a long chat, texts full of escapes.
//!
//! Each is read in three ways: by `peek`; by serde_json with borrowed `RawValue`s, which gives the same fields; and by
//! serde_json passing over the body without keeping any of it.

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keypool_providers::peek::peek;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

fn bodies() -> [(&'static str, String); 6] {
    let small = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello to the world in five languages."}],"temperature":0.7,"stream":true,"max_tokens":100}"#;
    let escapes = r#"She said: \"No.\"\n\tThen 1 < 2 \u2014 or not?\\\n"#.repeat((200 << 10) / 50);
    let chinese = "今天天气很好，我们去公园走走吧。".repeat((200 << 10) / 48);
    let text = |text: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"gpt-4o-mini"}}"#)
    };
    [
        ("small", small.to_owned()),
        ("1 MiB base64", image(1 << 20)),
        ("4 MiB base64", image(4 << 20)),
        ("100 messages, 200 KB", chat()),
        ("200 KiB with escapes", text(&escapes)),
        ("200 KiB Chinese", text(&chinese)),
    ]
}

fn image(bytes: usize) -> String {
    let picture = "iVBORw0KGgoAAAANSUhEUgAA/+8f".repeat(bytes / 28);
    format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":[{{"type":"text","text":"What is this?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}"}}}}]}}]}}"#
    )
}

fn chat() -> String {
    let paragraph = r#"The request path has ten phases, and each of them is a function of its own. \"Why?\" you may ask.\n\nBecause a reader meets one idea at a time, and a test can name the phase that broke.\n"#;
    let content = paragraph.repeat(2000 / paragraph.len());
    let message = |n: usize| {
        let role = if n.is_multiple_of(2) {
            "user"
        } else {
            "assistant"
        };
        format!(r#"{{"role":"{role}","content":"{content}"}}"#)
    };
    let messages: Vec<String> = (0..100).map(message).collect();
    format!(
        r#"{{"model":"gpt-4o-mini","stream":true,"messages":[{}]}}"#,
        messages.join(",")
    )
}

/// What `peek` reads, by serde_json: the last value of each field, and an error for a second `model`.
#[derive(Default)]
struct Raw<'a> {
    model: Option<&'a RawValue>,
    /// The other fields that `peek` keeps, in the order of [`OTHERS`].
    others: [Option<&'a RawValue>; OTHERS.len()],
}

const OTHERS: [&str; 12] = [
    "stream",
    "store",
    "prompt_cache_key",
    "safety_identifier",
    "user",
    "metadata",
    "messages",
    "contents",
    "input",
    "instructions",
    "system",
    "systemInstruction",
];

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LastOfEach;
        impl<'de> Visitor<'de> for LastOfEach {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut raw = Raw::default();
                while let Some(Name(name)) = map.next_key()? {
                    if name == "model" {
                        if raw.model.replace(map.next_value()?).is_some() {
                            return Err(A::Error::duplicate_field("model"));
                        }
                    } else if let Some(field) = OTHERS.iter().position(|other| *other == name) {
                        raw.others[field] = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(LastOfEach)
    }
}

/// A name, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowed)
    }
}

/// UTF-8 is checked as `peek` checks it, and the model's name is unescaped.
fn by_raw_value(body: &[u8]) -> Option<(Raw<'_>, Option<String>)> {
    let text = simdutf8::basic::from_utf8(body).ok()?;
    let raw: Raw<'_> = serde_json::from_str(text).ok()?;
    let model = raw
        .model
        .and_then(|model| serde_json::from_str(model.get()).ok());
    Some((raw, model))
}

fn peeking(c: &mut Criterion) {
    let mut group = c.benchmark_group("peek");
    for (name, body) in bodies() {
        let body = body.as_bytes();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("peek", name), |b| {
            b.iter(|| peek(black_box(body)));
        });
        group.bench_function(BenchmarkId::new("RawValue", name), |b| {
            b.iter(|| {
                let (raw, model) = by_raw_value(black_box(body)).expect("an object");
                black_box((raw.others, model))
            });
        });
        group.bench_function(BenchmarkId::new("serde_json", name), |b| {
            b.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(body)));
        });
    }
    group.finish();
}

criterion_group!(benches, peeking);
criterion_main!(benches);
