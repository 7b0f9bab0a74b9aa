//! Turns a file or standard input into events: lines, JSON lines, a JSON array, TSV or CSV, each with an optional key and time.
//!
//! The value of an event is always the input's own bytes (a line without its end, an array's element as written): nothing is reformatted, so
//! what is consumed later equals what was fed in. Knows nothing of hubs or topics.

use std::io::{self, BufRead};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::value::RawValue;

/// How the input is cut into events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum InputFormat {
    /// Each line is an event.
    Lines,
    /// Each line is a JSON object.
    Jsonl,
    /// The whole input is a JSON array; each element is an event.
    Json,
    /// Tab-separated columns, no quoting.
    Tsv,
    /// Comma-separated columns, quoted as RFC 4180 says (a record may span lines).
    Csv,
}

/// Where an event's key and time are found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extract {
    /// JSON: a field's name. TSV and CSV: a column's number from 1, or its name in the header.
    pub(crate) key: Option<String>,
    /// Lines: the key is what stands before the first occurrence of this text.
    pub(crate) key_until: Option<String>,
    /// JSON: a field's name. TSV and CSV: a column, like `key`.
    pub(crate) time: Option<String>,
    /// Lines: the time begins behind the first occurrence of this text.
    pub(crate) time_after: Option<String>,
    /// strftime pattern of the time; absent means RFC 3339 or milliseconds since 1970. A pattern without zone means UTC.
    pub(crate) time_format: Option<String>,
    /// TSV and CSV: the first record names the columns and is not an event.
    pub(crate) header: bool,
}

impl Extract {
    /// What does not go together, said with the way out.
    pub(crate) fn check(&self, format: InputFormat) -> Result<(), String> {
        let lines = format == InputFormat::Lines;
        let columns = matches!(format, InputFormat::Tsv | InputFormat::Csv);
        let wrong = [
            (lines && self.key.is_some(), "--key names a field or a column: give --format, or for lines --key-until"),
            (lines && self.time.is_some(), "--time names a field or a column: give --format, or for lines --time-after"),
            (!lines && self.key_until.is_some(), "--key-until is for lines: for this format give --key"),
            (!lines && self.time_after.is_some(), "--time-after is for lines: for this format give --time"),
            (!columns && self.header, "--header-row is for --format tsv or csv"),
            (
                self.time_format.is_some() && self.time.is_none() && self.time_after.is_none(),
                "--time-format says how a time is written: say where it is by --time or --time-after",
            ),
        ];
        wrong.iter().find(|(is_wrong, _)| *is_wrong).map_or(Ok(()), |(_, way_out)| Err((*way_out).to_owned()))
    }
}

/// One event of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputEvent {
    /// The key, if one was asked for.
    pub(crate) key: Option<Bytes>,
    /// The event's bytes as they stand in the input.
    pub(crate) value: Bytes,
    /// Milliseconds since 1970, if a time was asked for.
    pub(crate) timestamp_ms: Option<i64>,
}

/// The events of an input, in order. An error names the record's number (from 1) and what is wrong with it.
pub(crate) struct Events<R> {
    source: Source<R>,
    extract: Extract,
    columns: Option<Vec<Bytes>>,
    number: u64,
}

enum Source<R> {
    Lines { reader: R, format: InputFormat },
    Array(std::vec::IntoIter<Box<RawValue>>),
}

impl<R: BufRead> Events<R> {
    /// Begins to read. A JSON array is read whole; everything else is streamed record by record.
    pub(crate) fn new(mut reader: R, format: InputFormat, extract: Extract) -> Result<Events<R>> {
        let source = if format == InputFormat::Json {
            let mut text = String::new();
            reader.read_to_string(&mut text).context("the input is not UTF-8 text")?;
            let elements: Vec<Box<RawValue>> = serde_json::from_str(&text).context("the input is not a JSON array")?;
            Source::Array(elements.into_iter())
        } else {
            Source::Lines { reader, format }
        };
        Ok(Events { source, extract, columns: None, number: 0 })
    }

    fn next_event(&mut self) -> Result<Option<InputEvent>> {
        let format = match &mut self.source {
            Source::Array(elements) => {
                let Some(element) = elements.next() else { return Ok(None) };
                self.number += 1;
                return self.json_event(Bytes::copy_from_slice(element.get().as_bytes())).map(Some);
            }
            Source::Lines { format, .. } => *format,
        };
        loop {
            let Some(line) = self.next_record(format)? else { return Ok(None) };
            if line.is_empty() {
                continue;
            }
            self.number += 1;
            if self.extract.header && self.columns.is_none() && matches!(format, InputFormat::Tsv | InputFormat::Csv) {
                self.columns = Some(split_columns(&line, format)?);
                self.number -= 1;
                continue;
            }
            return match format {
                InputFormat::Lines => self.line_event(line).map(Some),
                InputFormat::Jsonl | InputFormat::Json => self.json_event(line).map(Some),
                InputFormat::Tsv | InputFormat::Csv => self.column_event(line, format).map(Some),
            };
        }
    }

    /// The next line without its end; for CSV, lines are joined until quotes are balanced.
    fn next_record(&mut self, format: InputFormat) -> Result<Option<Bytes>> {
        let Source::Lines { reader, .. } = &mut self.source else { return Ok(None) };
        let mut record = Vec::new();
        loop {
            let read = reader.read_until(b'\n', &mut record).context("cannot read the input")?;
            if read == 0 && record.is_empty() {
                return Ok(None);
            }
            let quotes = record.iter().filter(|byte| **byte == b'"').count();
            if format != InputFormat::Csv || quotes % 2 == 0 {
                break;
            }
            if read == 0 {
                bail!("record {}: a quoted field does not end", self.number + 1);
            }
        }
        if record.last() == Some(&b'\n') {
            record.pop();
        }
        if record.last() == Some(&b'\r') {
            record.pop();
        }
        Ok(Some(Bytes::from(record)))
    }

    fn line_event(&self, value: Bytes) -> Result<InputEvent> {
        let key = match &self.extract.key_until {
            None => None,
            Some(end) => {
                let at =
                    find(&value, end.as_bytes()).with_context(|| self.lacks(&format!("the text `{end}` that ends the key")))?;
                Some(value.slice(..at))
            }
        };
        let timestamp_ms = match &self.extract.time_after {
            None => None,
            Some(start) => {
                let at =
                    find(&value, start.as_bytes()).with_context(|| self.lacks(&format!("the text `{start}` before the time")))?;
                Some(self.parse_time(&String::from_utf8_lossy(&value[at + start.len()..]))?)
            }
        };
        Ok(InputEvent { key, value, timestamp_ms })
    }

    fn json_event(&self, value: Bytes) -> Result<InputEvent> {
        if self.extract.key.is_none() && self.extract.time.is_none() {
            let _: serde::de::IgnoredAny = serde_json::from_slice(&value).with_context(|| format!("record {}", self.number))?;
            return Ok(InputEvent { key: None, value, timestamp_ms: None });
        }
        let object: serde_json::Value = serde_json::from_slice(&value).with_context(|| format!("record {}", self.number))?;
        let field = |name: &String| -> Result<String> {
            match object.get(name) {
                Some(serde_json::Value::String(text)) => Ok(text.clone()),
                Some(other) => Ok(other.to_string()),
                None => Err(anyhow!(self.lacks(&format!("the field `{name}`")))),
            }
        };
        let key = self.extract.key.as_ref().map(field).transpose()?.map(Bytes::from);
        let time = self.extract.time.as_ref().map(field).transpose()?;
        let timestamp_ms = time.map(|text| self.parse_time(&text)).transpose()?;
        Ok(InputEvent { key, value, timestamp_ms })
    }

    fn column_event(&self, value: Bytes, format: InputFormat) -> Result<InputEvent> {
        let columns = split_columns(&value, format).with_context(|| format!("record {}", self.number))?;
        let column = |name: &String| -> Result<&Bytes> {
            let at = self.column_number(name)?;
            columns.get(at).ok_or_else(|| anyhow!(self.lacks(&format!("column `{name}`"))))
        };
        let key = self.extract.key.as_ref().map(column).transpose()?.cloned();
        let time = self.extract.time.as_ref().map(column).transpose()?;
        let timestamp_ms = time.map(|text| self.parse_time(&String::from_utf8_lossy(text))).transpose()?;
        Ok(InputEvent { key, value, timestamp_ms })
    }

    fn column_number(&self, name: &str) -> Result<usize> {
        if let Some(at) = self.columns.as_ref().and_then(|columns| columns.iter().position(|column| column == name)) {
            return Ok(at);
        }
        match name.parse::<usize>() {
            Ok(number) if number >= 1 => Ok(number - 1),
            _ => bail!("there is no column `{name}`: name a column of the header (with --header-row) or give its number from 1"),
        }
    }

    fn lacks(&self, what: &str) -> String {
        format!("record {} does not have {what}", self.number)
    }

    fn parse_time(&self, text: &str) -> Result<i64> {
        parse_time(text, self.extract.time_format.as_deref()).with_context(|| format!("record {}", self.number))
    }
}

impl<R: BufRead> Iterator for Events<R> {
    type Item = Result<InputEvent>;

    fn next(&mut self) -> Option<Result<InputEvent>> {
        self.next_event().transpose()
    }
}

/// Reads a time by a strftime pattern (text behind the time is passed over), or as RFC 3339 or milliseconds since 1970 without one.
pub(crate) fn parse_time(text: &str, pattern: Option<&str>) -> Result<i64> {
    let Some(pattern) = pattern else {
        if let Ok(milliseconds) = text.parse::<i64>() {
            return Ok(milliseconds);
        }
        let time = DateTime::parse_from_rfc3339(text);
        return Ok(time.with_context(|| format!("`{text}` is neither RFC 3339 nor milliseconds since 1970"))?.timestamp_millis());
    };
    if let Ok((time, _)) = DateTime::parse_and_remainder(text, pattern) {
        return Ok(time.timestamp_millis());
    }
    if let Ok((time, _)) = NaiveDateTime::parse_and_remainder(text, pattern) {
        return Ok(time.and_utc().timestamp_millis());
    }
    let date = NaiveDate::parse_and_remainder(text, pattern).map(|(date, _)| date);
    let shown: String = text.chars().take(40).collect();
    let midnight = date.ok().and_then(|date| date.and_hms_opt(0, 0, 0));
    Ok(midnight.with_context(|| format!("`{shown}` does not match the time format `{pattern}`"))?.and_utc().timestamp_millis())
}

/// A record's columns, byte for byte (CSV: without the quotes).
fn split_columns(record: &Bytes, format: InputFormat) -> Result<Vec<Bytes>> {
    if format == InputFormat::Tsv {
        return Ok(record.split(|byte| *byte == b'\t').map(|column| record.slice_ref(column)).collect());
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(io::Cursor::new(record));
    let columns = reader.byte_records().next().context("an empty record")?.context("not CSV")?;
    Ok(columns.iter().map(Bytes::copy_from_slice).collect())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str, format: InputFormat, extract: Extract) -> Result<Vec<InputEvent>> {
        Events::new(text.as_bytes(), format, extract)?.collect()
    }

    #[test]
    fn lines_keep_their_bytes_and_lose_only_their_ends() {
        let read = events("a b\r\nc\n\nlast", InputFormat::Lines, Extract::default()).unwrap();
        let values: Vec<&[u8]> = read.iter().map(|event| &event.value[..]).collect();
        assert_eq!(values, [&b"a b"[..], b"c", b"last"]);
    }

    #[test]
    fn a_log_line_gives_key_and_time() {
        let line = "10.0.0.1 - - [17/May/2015:10:05:03 +0000] \"GET /\"\n";
        let extract = Extract {
            key_until: Some(" ".into()),
            time_after: Some("[".into()),
            time_format: Some("%d/%b/%Y:%H:%M:%S %z".into()),
            ..Extract::default()
        };
        let read = events(line, InputFormat::Lines, extract).unwrap();
        assert_eq!(read[0].key.as_deref(), Some(&b"10.0.0.1"[..]));
        assert_eq!(read[0].timestamp_ms, Some(1_431_857_103_000));
    }

    #[test]
    fn a_json_array_keeps_each_element_as_written() {
        let text = r#"[{"b":1,"a":"x", "date":"2001/01/01 00:47"},{"b":2,"a":"y","date":"2001/01/02 00:00"}]"#;
        let extract = Extract {
            key: Some("a".into()),
            time: Some("date".into()),
            time_format: Some("%Y/%m/%d %H:%M".into()),
            ..Extract::default()
        };
        let read = events(text, InputFormat::Json, extract).unwrap();
        assert_eq!(&read[0].value[..], br#"{"b":1,"a":"x", "date":"2001/01/01 00:47"}"#);
        assert_eq!(read[0].key.as_deref(), Some(&b"x"[..]));
        assert_eq!(read[0].timestamp_ms, Some(978_310_020_000));
    }

    #[test]
    fn columns_are_found_by_number_and_by_header() {
        let extract = |key: &str, header| Extract { key: Some(key.into()), header, ..Extract::default() };
        let read = events("7\tx\n", InputFormat::Tsv, extract("2", false)).unwrap();
        assert_eq!(read[0].key.as_deref(), Some(&b"x"[..]));
        let read = events("id,text\n7,\"a,\nb\"\n", InputFormat::Csv, extract("text", true)).unwrap();
        assert_eq!(read[0].key.as_deref(), Some(&b"a,\nb"[..]));
        assert_eq!(&read[0].value[..], b"7,\"a,\nb\"");
        assert_eq!(read.len(), 1);
    }

    #[test]
    fn columns_need_not_be_text() {
        let mut source =
            Events::new(&b"\xff\xfe\tx\n"[..], InputFormat::Tsv, Extract { key: Some("1".into()), ..Extract::default() });
        assert_eq!(source.as_mut().unwrap().next().unwrap().unwrap().key.as_deref(), Some(&b"\xff\xfe"[..]));
    }

    #[test]
    fn flags_that_would_be_passed_over_are_refused() {
        let key = Extract { key: Some("1".into()), ..Extract::default() };
        assert!(key.check(InputFormat::Lines).is_err_and(|way_out| way_out.contains("--key-until")));
        assert!(key.check(InputFormat::Tsv).is_ok());
        let header = Extract { header: true, ..Extract::default() };
        assert!(header.check(InputFormat::Jsonl).is_err() && header.check(InputFormat::Csv).is_ok());
        let format = Extract { time_format: Some("%Y".into()), ..Extract::default() };
        assert!(format.check(InputFormat::Lines).is_err_and(|way_out| way_out.contains("--time-after")));
        let until = Extract { key_until: Some(":".into()), ..Extract::default() };
        assert!(until.check(InputFormat::Json).is_err() && until.check(InputFormat::Lines).is_ok());
    }

    #[test]
    fn an_error_names_the_record_and_the_field() {
        let extract = Extract { key: Some("id".into()), ..Extract::default() };
        let error = events("{\"id\":1}\n{\"x\":1}\n", InputFormat::Jsonl, extract).unwrap_err();
        assert_eq!(error.to_string(), "record 2 does not have the field `id`");
    }
}
