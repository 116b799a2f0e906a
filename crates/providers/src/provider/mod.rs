//! The providers: one file for each, the list of all, and what several of them share.

pub mod base_path;
pub mod catalogue;

mod anthropic;
mod ark;
mod deepseek;
mod gemini;
mod groq;
mod mistral;
mod mock;
mod moonshot;
mod openai;
mod openrouter;
mod paths;
mod siliconflow;
mod tavily;
