//! The list of all dialects. It knows nothing about them except their names.

use crate::dialect::Dialect;

/// Every dialect, in the order in which pools made from the environment are listed.
pub static ALL: &[&Dialect] = &[
    &super::openai::OPENAI,
    &super::anthropic::ANTHROPIC,
    &super::gemini::GEMINI,
    &super::ark::ARK,
    &super::tavily::TAVILY,
    &super::deepseek::DEEPSEEK,
    &super::openrouter::OPENROUTER,
    &super::moonshot::MOONSHOT,
    &super::siliconflow::SILICONFLOW,
    &super::groq::GROQ,
    &super::mistral::MISTRAL,
    &super::openai::OPENAI_COMPATIBLE,
    &super::mock::MOCK,
];

/// Finds a dialect by its name.
pub fn find(name: &str) -> Option<&'static Dialect> {
    ALL.iter().copied().find(|dialect| dialect.name == name)
}
