//! Where a connection's bytes stand between HTTP/2's frames (RFC 9113, section 4.1), so that a client which begins a header block and then
//! dawdles can be told from one that is quiet.
//!
//! It looks at the nine bytes before each frame only, and believes nothing: what the frames say is the HTTP/2 library's to judge.

/// Bytes before a frame's payload: length (3), kind, flags, stream (4).
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The place within a sequence of frames. Begins where HTTP/2's preface ends.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    /// How much of `head` is there.
    have: usize,
    /// Bytes of the present frame's payload that are still to come.
    left: usize,
    /// The present frame carries data, which may take its time.
    data: bool,
    /// A header block was begun, and no frame has ended it.
    block: bool,
}

impl Frames {
    /// Takes note of what was read.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.have = 0;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.data = kind == DATA;
        if kind == HEADERS || kind == CONTINUATION {
            self.block = flags & END_HEADERS == 0;
        }
    }

    /// True in the middle of a frame that is not data, and between the frames of a header block.
    pub(super) fn unfinished(&self) -> bool {
        self.block || self.have > 0 || (self.left > 0 && !self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEAD_BYTES + length, 7);
        bytes
    }

    /// Whether it is unfinished after each byte.
    fn after_each(bytes: &[u8]) -> Vec<bool> {
        let mut frames = Frames::default();
        let each = bytes.iter().map(|byte| {
            frames.pass(&[*byte]);
            frames.unfinished()
        });
        each.collect()
    }

    #[test]
    fn a_header_block_is_unfinished_until_its_last_frame_is_whole_and_data_never_is() {
        let headers = [frame(HEADERS, 0, 20), frame(CONTINUATION, 0, 0), frame(CONTINUATION, END_HEADERS, 300)].concat();
        let mut states = after_each(&headers);
        assert_eq!(states.pop(), Some(false));
        assert!(states.iter().all(|unfinished| *unfinished));
        let data = after_each(&frame(DATA, 0, 70_000));
        assert!(data[..HEAD_BYTES - 1].iter().all(|unfinished| *unfinished), "a frame's head is no data yet");
        assert!(!data[HEAD_BYTES - 1..].iter().any(|unfinished| *unfinished));
    }

    #[test]
    fn it_is_the_same_however_the_bytes_are_cut() {
        let all =
            [frame(4, 0, 0), frame(HEADERS, END_HEADERS, 40), frame(DATA, 1, 1000), frame(HEADERS, 0, 5), frame(DATA, 0, 3)];
        let bytes = all.concat();
        let each = after_each(&bytes);
        for cut in 1..bytes.len() {
            let mut frames = Frames::default();
            frames.pass(&bytes[..cut]);
            assert_eq!(frames.unfinished(), each[cut - 1], "after {cut} bytes");
            frames.pass(&bytes[cut..]);
            assert!(frames.unfinished(), "a block was begun and not ended");
        }
    }
}
