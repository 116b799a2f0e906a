//! How many input tokens an image has, by each provider's published rule.
//!
//! Must never know where an image comes from.

/// Length of the longer side to which OpenAI scales an image down, in pixels, and then of the shorter one.
const OPENAI_SIDES: [f64; 2] = [2048.0, 768.0];
/// Tokens that Anthropic's largest images have: larger ones are scaled down.
const MOST_ANTHROPIC: f64 = 1600.0;
/// The longer side that Anthropic scales an image down to, in pixels.
const ANTHROPIC_SIDE: f64 = 1568.0;
/// Tokens of a tile at Gemini, and of an image of at most this size on both sides.
const GEMINI_TILE: f64 = 258.0;
const GEMINI_SMALL: f64 = 384.0;
/// The longer side that Google scales an image down to, in pixels.
const GEMINI_SIDE: f64 = 3072.0;
/// Tokens of Ark's largest images, as they are and with `detail: "high"`.
const MOST_ARK: [f64; 2] = [1312.0, 5120.0];
/// The size that an image of unknown size is taken to have, in pixels.
const UNKNOWN: ImageSize = ImageSize {
    width: 1024,
    height: 1024,
};

/// How a provider counts the tokens of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageRule {
    /// 85, and with high detail 170 more for each tile of 512 × 512 pixels, after scaling down (OpenAI's guide to images, for
    /// GPT-4o; other families use other numbers in about the same proportion).
    OpenAi,
    /// Width × height / 750, at most 1,600 (Anthropic's guide to vision).
    Anthropic,
    /// 258 for a small image or for each tile (Google's guide to image understanding).
    Gemini,
    /// Width × height / 784, with a maximum (Volcengine's guide to vision models).
    Ark,
}

/// Width and height, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageSize {
    pub(super) width: u32,
    pub(super) height: u32,
}

/// The detail with which a request wants an image to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Low,
    High,
}

impl ImageRule {
    /// Tokens of one image. `detail`: `None` if the provider chooses.
    pub(super) fn tokens(self, size: Option<ImageSize>, detail: Option<Detail>) -> f64 {
        let size = size.unwrap_or(UNKNOWN);
        let width = f64::from(size.width.max(1));
        let height = f64::from(size.height.max(1));
        match self {
            Self::OpenAi if detail == Some(Detail::Low) => 85.0,
            Self::OpenAi => openai(width, height),
            Self::Anthropic => {
                let scale = (ANTHROPIC_SIDE / width.max(height)).min(1.0);
                (width * scale * height * scale / 750.0)
                    .ceil()
                    .min(MOST_ANTHROPIC)
            }
            Self::Gemini => gemini(width, height),
            Self::Ark => {
                let most = MOST_ARK[usize::from(detail == Some(Detail::High))];
                (width * height / 784.0).ceil().min(most)
            }
        }
    }
}

fn openai(width: f64, height: f64) -> f64 {
    let [longer, shorter] = OPENAI_SIDES;
    let scale = (longer / width.max(height)).min(1.0);
    let scale = scale * (shorter / (width.min(height) * scale)).min(1.0);
    // Rounding must not add a tile.
    let tiles = |side: f64| ((side * scale).round() / 512.0).ceil().max(1.0);
    85.0 + 170.0 * tiles(width) * tiles(height)
}

fn gemini(width: f64, height: f64) -> f64 {
    if width.max(height) <= GEMINI_SMALL {
        return GEMINI_TILE;
    }
    let scale = (GEMINI_SIDE / width.max(height)).min(1.0);
    let (width, height) = (width * scale, height * scale);
    let unit = (width.min(height) / 1.5).floor().clamp(256.0, 768.0);
    GEMINI_TILE * (width / unit).ceil() * (height / unit).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_the_tokens_that_providers_publish() {
        use ImageRule::{Anthropic, Ark, Gemini, OpenAi};
        let (low, high) = (Some(Detail::Low), Some(Detail::High));
        for (rule, width, height, detail, tokens) in [
            // OpenAI's three examples.
            (OpenAi, 1024, 1024, high, 765),
            (OpenAi, 2048, 4096, high, 1105),
            (OpenAi, 4096, 8192, low, 85),
            (OpenAi, 1, 1, None, 255),
            // Anthropic's table.
            (Anthropic, 200, 200, None, 54),
            (Anthropic, 1000, 1000, None, 1334),
            (Anthropic, 1092, 1092, None, 1590),
            (Anthropic, 8000, 8000, None, 1600),
            (Anthropic, 8000, 100, None, 41),
            // Google's example has six tiles.
            (Gemini, 960, 540, None, 1548),
            (Gemini, 384, 384, None, 258),
            (Gemini, 6144, 6144, None, 4128),
            (Ark, 280, 280, None, 100),
            (Ark, 4000, 4000, None, 1312),
            (Ark, 4000, 4000, high, 5120),
        ] {
            let size = Some(ImageSize { width, height });
            let found = rule.tokens(size, detail);
            assert_eq!(found, f64::from(tokens), "{rule:?} {width} x {height}");
        }
        for rule in [OpenAi, Anthropic, Gemini, Ark] {
            let unknown = rule.tokens(None, None);
            assert!((258.0..=1548.0).contains(&unknown), "{rule:?}: {unknown}");
            let size = |side| ImageSize {
                width: side,
                height: u32::MAX,
            };
            for side in [0, 1, u32::MAX] {
                let found = rule.tokens(Some(size(side)), None);
                assert!((1.0..6000.0).contains(&found), "{rule:?}: {found}");
            }
        }
    }
}
