//! Dialects: what each provider and each client protocol looks like on the wire. Bytes in, facts out.
//!
//! Nothing here opens a socket, keeps state or knows the pool.

pub mod catalogue;
pub mod dialect;
pub mod form;
pub mod objects;
pub mod peek;
pub mod protocol;
pub mod secrets;
pub mod sse;
pub mod wait;

mod answer;
mod anthropic;
mod ark;
mod compatible;
mod deepseek;
mod gemini;
mod groq;
mod mistral;
mod mock;
mod moonshot;
mod openai;
mod openrouter;
mod scan;
mod siliconflow;
mod tavily;
mod upstream;
