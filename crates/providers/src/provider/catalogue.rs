//! The list of all dialects. It knows nothing about them except their names.

use super::anthropic::ANTHROPIC;
use super::ark::ARK;
use super::deepseek::DEEPSEEK;
use super::gemini::GEMINI;
use super::groq::GROQ;
use super::mistral::MISTRAL;
use super::mock::MOCK;
use super::moonshot::MOONSHOT;
use super::openai::{OPENAI, OPENAI_COMPATIBLE};
use super::openrouter::OPENROUTER;
use super::siliconflow::SILICONFLOW;
use super::tavily::TAVILY;
use crate::dialect::Dialect;

/// All dialects, in the order in which pools made from the environment are listed.
static ALL: &[&Dialect] = &[
    &OPENAI,
    &ANTHROPIC,
    &GEMINI,
    &ARK,
    &TAVILY,
    &DEEPSEEK,
    &OPENROUTER,
    &MOONSHOT,
    &SILICONFLOW,
    &GROQ,
    &MISTRAL,
    &OPENAI_COMPATIBLE,
    &MOCK,
];

/// Every dialect, in the order in which pools made from the environment are listed.
pub fn all() -> &'static [&'static Dialect] {
    ALL
}

/// Finds a dialect by its name.
pub fn find(name: &str) -> Option<&'static Dialect> {
    ALL.iter().copied().find(|dialect| dialect.name == name)
}
