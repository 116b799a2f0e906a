//! The lines of an uploaded file, read piece by piece.

use bytes::{Buf, Bytes, BytesMut};
use keypool_core::store::StoreError;

use crate::context::Gateway;
use crate::jobs::FILE_PIECE;
use crate::stored::Access;

/// Maximum length of a line, in bytes.
pub(super) const MAX_LINE: usize = 64 << 20;
/// Some programs begin files with it (byte order mark in UTF-8).
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads lines of a file.
pub(super) struct Input<'a> {
    gw: &'a Gateway,
    file: &'a str,
    next_piece: u32,
    /// What was read and not returned yet.
    held: BytesMut,
    /// How much of `held` has no line break.
    searched: usize,
    /// Where `held` begins in the file.
    offset: u64,
    /// Where to stop.
    end: u64,
    /// Number of the next line.
    line: u64,
    is_at_end: bool,
}

/// One line.
pub(super) struct Line {
    /// Its number in the file, from 1.
    pub(super) number: u64,
    /// Where it begins in the file, in bytes.
    pub(super) offset: u64,
    /// Its length with its line break, in bytes.
    pub(super) length: u64,
    /// Its text without the line break.
    pub(super) text: Bytes,
}

impl<'a> Input<'a> {
    /// All lines.
    pub(super) fn whole(gw: &'a Gateway, file: &'a str) -> Self {
        Self::range(gw, file, 1, 0, u64::MAX)
    }

    /// The lines in `length` bytes from `offset` on, of which the first one has this number.
    pub(super) fn range(
        gw: &'a Gateway,
        file: &'a str,
        first_line: u64,
        offset: u64,
        length: u64,
    ) -> Self {
        let piece = offset / FILE_PIECE;
        Self {
            gw,
            file,
            next_piece: u32::try_from(piece).unwrap_or(u32::MAX),
            held: BytesMut::new(),
            searched: 0,
            offset: piece * FILE_PIECE,
            end: offset.saturating_add(length),
            line: first_line,
            is_at_end: false,
        }
        .skipping(offset)
    }

    /// What comes before this place is dropped when it is read.
    fn skipping(self, offset: u64) -> Self {
        Self {
            searched: usize::try_from(offset - self.offset).unwrap_or(0),
            ..self
        }
    }

    /// The next line; `None` after the last one. A line that is longer than allowed is cut.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, StoreError> {
        self.skip().await?;
        loop {
            let from = self.searched.min(self.held.len());
            if let Some(at) = memchr::memchr(b'\n', &self.held[from..]) {
                return Ok(self.take(from + at + 1));
            }
            self.searched = self.held.len();
            if self.is_at_end || self.held.len() > MAX_LINE {
                return Ok(self.take(self.held.len()));
            }
            self.read().await?;
        }
    }

    /// Drops what comes before the first line.
    async fn skip(&mut self) -> Result<(), StoreError> {
        if self.offset >= self.end || self.searched == 0 || !self.held.is_empty() {
            return Ok(());
        }
        self.read().await?;
        let skipped = self.searched.min(self.held.len());
        self.held.advance(skipped);
        self.offset += skipped as u64;
        self.searched = 0;
        Ok(())
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let piece = self
            .gw
            .stored
            .store()?
            .file_piece(self.file, self.next_piece)
            .await;
        let piece = self.gw.note_store(Access::Read, piece)?;
        self.is_at_end = piece.is_empty();
        self.next_piece += 1;
        self.held.extend_from_slice(&piece);
        Ok(())
    }

    fn take(&mut self, length: usize) -> Option<Line> {
        if length == 0 || self.offset >= self.end {
            return None;
        }
        let mut text = self.held.split_to(length).freeze();
        for end in [b'\n', b'\r'] {
            if text.last() == Some(&end) {
                text.truncate(text.len() - 1);
            }
        }
        if self.line == 1 && text.starts_with(MARK) {
            text.advance(MARK.len());
        }
        let line = Line {
            number: self.line,
            offset: self.offset,
            length: length as u64,
            text,
        };
        self.offset += line.length;
        self.line += 1;
        self.searched = 0;
        Some(line)
    }
}

impl Line {
    /// Whether there is nothing in it.
    pub(super) fn is_blank(&self) -> bool {
        self.text.trim_ascii().is_empty()
    }
}
