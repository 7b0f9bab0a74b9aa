//! Finds keys that a manifest or settings file should not have, and names the known key that was probably meant.

use serde_json::Value;

/// The keys an object may have; a key without a nested shape takes any value.
#[derive(Clone, Copy, Debug)]
pub struct Shape(pub &'static [(&'static str, Option<Shape>)]);

/// The first key in `value` that `shape` does not have: its path and the nearest known key, if any is near.
pub fn unknown_key(value: &Value, shape: &Shape) -> Option<(String, Option<&'static str>)> {
    unknown_key_below(value, shape, "")
}

fn unknown_key_below(value: &Value, shape: &Shape, path: &str) -> Option<(String, Option<&'static str>)> {
    let Value::Object(object) = value else { return None };
    for (key, nested) in object {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match shape.0.iter().find(|(known, _)| known == key) {
            None => return Some((at, nearest(key, shape.0.iter().map(|(known, _)| *known)))),
            Some((_, Some(below))) => {
                let unknown = unknown_key_below(nested, below, &at);
                if unknown.is_some() {
                    return unknown;
                }
            }
            Some((_, None)) => {}
        }
    }
    None
}

/// The word among `known` that is nearest to `word`: at most a third of its letters (and at least two) away.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let within = (word.chars().count() / 3).max(2);
    known
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= within)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's edit distance in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape(&[("spec", Some(Shape(&[("partitions", None), ("retention", None)]))), ("kind", None)]);

    #[test]
    fn an_unknown_key_is_named_with_its_path_and_the_nearest_known_one() {
        let value = serde_json::json!({"kind": "Topic", "spec": {"partition": 3}});
        assert_eq!(unknown_key(&value, &SHAPE), Some(("spec.partition".to_owned(), Some("partitions"))));
    }

    #[test]
    fn a_key_that_resembles_nothing_gets_no_suggestion() {
        let value = serde_json::json!({"spec": {"colour": 3}});
        assert_eq!(unknown_key(&value, &SHAPE), Some(("spec.colour".to_owned(), None)));
    }

    #[test]
    fn known_keys_pass() {
        assert_eq!(unknown_key(&serde_json::json!({"kind": 1, "spec": {"retention": {"x": 1}}}), &SHAPE), None);
    }
}
