//! What a request holds for a model to read, as tokens.
//!
//! Must never know the form of a body, only names and values of its fields.

use super::image::{Detail, ImageRule, ImageSize};
use super::media::{Base64, Media};
use super::text::{InputKind, TextCounts};
use crate::protocol::Protocol;

/// Tokens around a message, its role included (OpenAI's cookbook on counting tokens).
const MESSAGE: f64 = 4.0;
/// Tokens of a file that is only referred to.
const UNKNOWN_FILE: f64 = 1000.0;
/// Bytes of a page of a PDF, and its tokens; Google counts a page like a tile of an image.
const PAGE_BYTES: f64 = 50_000.0;
const PAGE: f64 = 1500.0;
const GEMINI_PAGE: f64 = 258.0;
/// Bytes of a second of a recording that does not tell (128 kbit/s), and its tokens at OpenAI and at Google.
const SECOND_BYTES: f64 = 16_000.0;
const SECOND: f64 = 10.0;
const GEMINI_SECOND: f64 = 32.0;
/// Bytes of a second of a video (1 Mbit/s), and its tokens at Google.
const VIDEO_SECOND_BYTES: f64 = 125_000.0;
const VIDEO_SECOND: f64 = 300.0;
/// Bytes for one token of any other file, and the maximum number of tokens where the file is not known to be text.
const TOKEN_BYTES: f64 = 4.0;
const MAX_FILE: f64 = 10_000.0;
/// Minimum length of a value that may be base64, in bytes.
const MIN_BASE64: usize = 32;

/// What was found in a request.
#[derive(Debug)]
pub(super) struct Found {
    image_rule: ImageRule,
    is_gemini: bool,
    text: TextCounts,
    messages: u32,
    /// Numbers in lists: ids of tokens.
    numbers: u32,
    /// Tokens of what was sent along: images, recordings, files.
    tokens: f64,
    /// Images that were sent along, and parts of the request that are images.
    images: u32,
    image_parts: u32,
    /// Images and files that are only referred to.
    references: u32,
    /// The model reads more than the body holds.
    is_part: bool,
    /// Images among the references with low and with high detail.
    details: [u32; 2],
    /// The detail that the current object states before its image.
    detail: Option<Detail>,
    /// The image of the current object.
    image: LastImage,
}

#[derive(Clone, Copy, Debug)]
enum LastImage {
    None,
    Referred,
    Sent(Option<ImageSize>),
}

impl Found {
    pub(super) fn new(protocol: Protocol, image_rule: ImageRule) -> Self {
        Self {
            image_rule,
            is_gemini: protocol == Protocol::Gemini,
            text: TextCounts::default(),
            messages: 0,
            numbers: 0,
            tokens: 0.0,
            images: 0,
            image_parts: 0,
            references: 0,
            is_part: false,
            details: [0; 2],
            detail: None,
            image: LastImage::None,
        }
    }

    pub(super) fn tokens(&self) -> f64 {
        let message = if self.is_gemini { 0.0 } else { MESSAGE };
        let unseen = self.image_parts.saturating_sub(self.images);
        let [low, high] = self.details;
        let image = |count: u32, detail| match count {
            0 => 0.0,
            count => f64::from(count) * self.image_rule.tokens(None, detail),
        };
        let files = self.references.saturating_sub(unseen);
        self.text.tokens()
            + f64::from(self.messages) * message
            + f64::from(self.numbers)
            + self.tokens
            + image(low, Some(Detail::Low))
            + image(high, Some(Detail::High))
            + image(unseen.saturating_sub(low + high), None)
            + f64::from(files) * UNKNOWN_FILE
    }

    pub(super) fn kind(&self) -> InputKind {
        match self.images + self.image_parts {
            0 => self.text.kind(),
            _ => InputKind::Images,
        }
    }

    /// Whether everything that the model reads was in the body. An image that is only referred to has a usual size.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_part && self.references == 0
    }

    /// The model reads something that is not in the body.
    pub(super) fn elsewhere(&mut self) {
        self.is_part = true;
    }

    /// A message begins.
    pub(super) fn message(&mut self) {
        self.messages += 1;
    }

    /// A number in a list.
    pub(super) fn number(&mut self) {
        self.numbers += 1;
    }

    /// Text, whatever its field.
    pub(super) fn text(&mut self, content: &[u8]) {
        self.text.add(content);
    }

    /// An image of which nothing else is known.
    pub(super) fn image_part(&mut self) {
        self.image_parts += 1;
    }

    /// The end of an object.
    pub(super) fn end_of_object(&mut self) {
        self.detail = None;
        self.image = LastImage::None;
    }

    /// A text in the field `name`.
    pub(super) fn value(&mut self, name: &[u8], content: &[u8]) {
        if let Some((media_type, data)) = data_url(content) {
            return self.sent(media_type, data);
        }
        match name {
            b"data" | b"file_data" | b"b64_json" | b"bytesBase64Encoded" | b"image"
                if is_base64(content) =>
            {
                self.sent(b"", content);
            }
            b"detail" => match content {
                b"low" => self.detail(Detail::Low),
                b"high" => self.detail(Detail::High),
                _ => {}
            },
            b"image_url" => self.referred(),
            b"url" => {
                // It may also be an argument of a function.
                self.text.add(content);
                self.referred();
            }
            b"file_id" | b"fileUri" | b"file_uri" | b"file_url" => {
                self.references += 1;
                self.referred();
            }
            b"type" if matches!(content, b"image_url" | b"input_image" | b"image") => {
                self.image_parts += 1;
            }
            b"mimeType" | b"mime_type" if content.starts_with(b"image/") => self.image_parts += 1,
            b"id" | b"type" | b"role" | b"call_id" | b"tool_call_id" | b"tool_use_id"
            | b"signature" | b"thoughtSignature" | b"thought_signature" | b"encrypted_content"
            | b"format" | b"mimeType" | b"mime_type" | b"media_type" | b"ttl" => {}
            _ => self.text.add(content),
        }
    }

    fn referred(&mut self) {
        match self.detail.take() {
            Some(detail) => self.details[detail as usize] += 1,
            None => self.image = LastImage::Referred,
        }
    }

    fn detail(&mut self, detail: Detail) {
        match self.image {
            LastImage::None => self.detail = Some(detail),
            LastImage::Referred => self.details[detail as usize] += 1,
            LastImage::Sent(size) => {
                let tokens = |detail| self.image_rule.tokens(size, detail);
                self.tokens += tokens(Some(detail)) - tokens(None);
            }
        }
        self.image = LastImage::None;
    }

    /// Something in base64. `media_type`: as stated, may be empty.
    fn sent(&mut self, media_type: &[u8], data: &[u8]) {
        let base64 = Base64(data);
        let bytes = base64.length() as f64;
        match base64.media() {
            Media::Image(size) => self.sent_image(size),
            _ if media_type.starts_with(b"image/") => self.sent_image(None),
            Media::Audio(rate) => self.recording(bytes, rate),
            _ if media_type.starts_with(b"audio/") => self.recording(bytes, None),
            Media::Video => self.tokens += bytes / VIDEO_SECOND_BYTES * VIDEO_SECOND,
            Media::Pdf => {
                let page = if self.is_gemini { GEMINI_PAGE } else { PAGE };
                self.tokens += (bytes / PAGE_BYTES).ceil() * page;
            }
            Media::Other if media_type.starts_with(b"text/") => self.tokens += bytes / TOKEN_BYTES,
            Media::Other => self.tokens += (bytes / TOKEN_BYTES).min(MAX_FILE),
        }
    }

    fn sent_image(&mut self, size: Option<ImageSize>) {
        self.images += 1;
        self.tokens += self.image_rule.tokens(size, self.detail.take());
        self.image = LastImage::Sent(size);
    }

    /// A recording of `bytes`, and its bytes per second if it tells.
    pub(super) fn recording(&mut self, bytes: f64, rate: Option<u32>) {
        let second = if self.is_gemini {
            GEMINI_SECOND
        } else {
            SECOND
        };
        self.tokens += bytes / rate.map_or(SECOND_BYTES, f64::from) * second;
    }
}

/// Media type and base64 of a `data:` URL.
fn data_url(content: &[u8]) -> Option<(&[u8], &[u8])> {
    const MARK: &[u8] = b";base64,";
    let rest = content.strip_prefix(b"data:")?;
    let head = &rest[..rest.len().min(128)];
    let at = head.windows(MARK.len()).position(|part| part == MARK)?;
    Some((&rest[..at], &rest[at + MARK.len()..]))
}

fn is_base64(content: &[u8]) -> bool {
    let is_digit =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_');
    content.len() >= MIN_BASE64 && content[..MIN_BASE64].iter().all(is_digit)
}
