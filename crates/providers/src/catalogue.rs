//! The list of all dialects. It knows nothing of them but their names.

use crate::anthropic::Anthropic;
use crate::ark::ARK;
use crate::deepseek::DEEPSEEK;
use crate::dialect::Dialect;
use crate::gemini::Gemini;
use crate::groq::GROQ;
use crate::mistral::MISTRAL;
use crate::mock::Mock;
use crate::moonshot::MOONSHOT;
use crate::openai::{OPENAI, OPENAI_COMPATIBLE};
use crate::openrouter::OPENROUTER;
use crate::siliconflow::SILICONFLOW;
use crate::tavily::Tavily;

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

/// The dialect of that name.
pub fn find(name: &str) -> Option<&'static dyn Dialect> {
    ALL.iter().copied().find(|dialect| dialect.name() == name)
}
