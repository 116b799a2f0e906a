//! The list of all dialects. It knows nothing about them except their names.

use super::anthropic::Anthropic;
use super::ark::ARK;
use super::deepseek::DEEPSEEK;
use super::gemini::Gemini;
use super::groq::GROQ;
use super::mistral::MISTRAL;
use super::mock::Mock;
use super::moonshot::MOONSHOT;
use super::openai::{OPENAI, OPENAI_COMPATIBLE};
use super::openrouter::OPENROUTER;
use super::siliconflow::SILICONFLOW;
use super::tavily::Tavily;
use crate::dialect::Dialect;

/// All dialects, in the order in which pools made from the environment are listed.
static ALL: &[&dyn Dialect] = &[
    &OPENAI,
    &Anthropic,
    &Gemini,
    &ARK,
    &Tavily,
    &DEEPSEEK,
    &OPENROUTER,
    &MOONSHOT,
    &SILICONFLOW,
    &GROQ,
    &MISTRAL,
    &OPENAI_COMPATIBLE,
    &Mock,
];

/// Every dialect, in the order in which pools made from the environment are listed.
pub fn all() -> &'static [&'static dyn Dialect] {
    ALL
}

/// Finds a dialect by its name.
pub fn find(name: &str) -> Option<&'static dyn Dialect> {
    ALL.iter().copied().find(|dialect| dialect.name() == name)
}
