//! Durations and sizes as people write them in manifests.
//!
//! A duration is a whole number with a unit (`ms`, `s`, `m`, `h`, `d`), several in a row (`1d12h`), or `unlimited`. A size is a Kubernetes
//! Quantity of bytes without a fraction: a whole number, bare or with `k`, `M`, `G`, `T` (powers of 1000) or `Ki`, `Mi`, `Gi`, `Ti` (powers of 1024).

use serde::{Deserialize, Deserializer, Serialize};

/// A size as a person wrote it: a number of bytes, alone or with a unit, or `unlimited` where that makes sense. Read by [`parse_bytes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Size(pub String);

/// A duration as a person wrote it. Read by [`parse_duration_ms`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span(pub String);

impl AsRef<str> for Size {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Span {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size in bytes: a whole number or text such as `512Mi`")]
        enum Written {
            Number(u64),
            Text(String),
        }
        Written::deserialize(deserializer).map(|written| match written {
            Written::Number(number) => Size(number.to_string()),
            Written::Text(text) => Size(text),
        })
    }
}

/// Why a duration or size was refused; says what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct QuantityError {
    text: String,
    expected: &'static str,
}

const DURATION: &str = "a duration: write whole numbers with ms, s, m, h or d (such as `90s`, `7d`, `1d12h`), or `unlimited`";
const SIZE: &str =
    "a size in bytes: write a whole number, alone or with k, M, G, T, Ki, Mi, Gi or Ti (such as `512Mi`), or `unlimited`";

/// The word for "no bound".
pub const UNLIMITED: &str = "unlimited";

/// Reads a duration in milliseconds; `None` for `unlimited`.
pub fn parse_duration_ms(text: &str) -> Result<Option<u64>, QuantityError> {
    let refused = || QuantityError { text: text.to_owned(), expected: DURATION };
    if text == UNLIMITED {
        return Ok(None);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
        let amount: u64 = rest[..digits].parse().map_err(|_| refused())?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms: u64 = match &rest[..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        rest = &rest[unit_end..];
        total = amount.checked_mul(unit_ms).and_then(|part| total.checked_add(part)).ok_or_else(refused)?;
    }
    let fits = !text.is_empty() && i64::try_from(total).is_ok();
    if fits { Ok(Some(total)) } else { Err(refused()) }
}

/// Writes a duration so that [`parse_duration_ms`] reads it back.
pub fn format_duration_ms(duration_ms: Option<u64>) -> String {
    let Some(mut rest) = duration_ms else { return UNLIMITED.to_owned() };
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= unit_ms {
            text.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    text
}

/// Reads a number of processor cores: `2`, `0.5` or `1500m`; `None` for anything else.
pub fn parse_cores(text: &str) -> Option<f64> {
    let (digits, unit) = match text.strip_suffix('m') {
        Some(digits) => (digits, 0.001),
        None => (text, 1.0),
    };
    let is_plain = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    digits.parse::<f64>().ok().filter(|_| is_plain).map(|amount| amount * unit)
}

/// Reads a size in bytes; `None` for `unlimited`.
pub fn parse_bytes(text: &str) -> Result<Option<u64>, QuantityError> {
    let refused = || QuantityError { text: text.to_owned(), expected: SIZE };
    if text == UNLIMITED {
        return Ok(None);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let amount: u64 = text[..digits].parse().map_err(|_| refused())?;
    let unit: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(refused()),
    };
    amount.checked_mul(unit).filter(|bytes| i64::try_from(*bytes).is_ok()).map(Some).ok_or_else(refused)
}

/// Writes a size for people, exactly, so that [`parse_bytes`] reads it back.
pub fn format_bytes(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else { return UNLIMITED.to_owned() };
    for (unit, size) in [("Ti", 1u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
        if bytes >= size && bytes % size == 0 {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(parse_duration_ms("7d").unwrap(), Some(604_800_000));
        assert_eq!(parse_duration_ms("1d12h").unwrap(), Some(129_600_000));
        assert_eq!(parse_duration_ms("250ms").unwrap(), Some(250));
        assert_eq!(parse_duration_ms("unlimited").unwrap(), None);
    }

    #[test]
    fn a_duration_without_a_known_unit_or_too_long_is_refused() {
        for text in ["", "7", "d", "-1d", "1w", "1.5h", "7 d", "99999999999999999999d", "106751991168d"] {
            let error = parse_duration_ms(text).unwrap_err().to_string();
            assert!(error.contains("ms, s, m, h or d"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("1024").unwrap(), Some(1024));
        assert_eq!(parse_bytes("10Gi").unwrap(), Some(10 << 30));
        assert_eq!(parse_bytes("5M").unwrap(), Some(5_000_000));
        assert_eq!(parse_bytes("unlimited").unwrap(), None);
        for text in ["", "Gi", "1.5Gi", "-1", "1GB", "16777216Ti"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for ms in [0, 1, 999, 1_000, 61_001, 86_400_000, 129_600_000] {
            assert_eq!(parse_duration_ms(&format_duration_ms(Some(ms))).unwrap(), Some(ms));
        }
        for bytes in [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1, 10 << 30] {
            assert_eq!(parse_bytes(&format_bytes(Some(bytes))).unwrap(), Some(bytes));
        }
        assert_eq!(parse_duration_ms(&format_duration_ms(None)).unwrap(), None);
    }
}
