//! The broker's OpenMetrics text as OpenTelemetry instruments, so that both ways of export tell the same numbers.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// Gives the metrics as OpenMetrics text.
pub(crate) type Source = Arc<dyn Fn() -> String + Send + Sync>;

/// Registers an instrument for each counter and gauge that `source` has. Histograms are left to the HTTP listener.
pub(crate) fn register(meter: &Meter, source: Source) {
    for family in families(&source()) {
        let source = source.clone();
        let name = family.name.clone();
        // Text names a counter's samples `<family>_total`.
        let sample = if family.is_counter { format!("{name}_total") } else { name.clone() };
        if family.is_counter {
            let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
                for (labels, value) in samples(&source(), &sample) {
                    observer.observe(value as u64, &labels);
                }
            };
            let _ = meter.u64_observable_counter(name).with_description(family.help).with_callback(callback).build();
        } else {
            let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
                for (labels, value) in samples(&source(), &sample) {
                    observer.observe(value, &labels);
                }
            };
            let _ = meter.f64_observable_gauge(name).with_description(family.help).with_callback(callback).build();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Family {
    name: String,
    help: String,
    is_counter: bool,
}

fn families(text: &str) -> Vec<Family> {
    let mut help: HashMap<&str, &str> = HashMap::new();
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some((name, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.insert(name, words);
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            && matches!(kind, "counter" | "gauge")
        {
            let help = help.get(name).copied().unwrap_or_default().to_owned();
            families.push(Family { name: name.to_owned(), help, is_counter: kind == "counter" });
        }
    }
    families
}

/// The samples of one name: their labels and values. Label values of the broker contain neither quotes nor commas.
fn samples(text: &str, name: &str) -> Vec<(Vec<KeyValue>, f64)> {
    let mut samples = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        let (labels, value) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((labels, value)) => (labels, value),
            None => ("", rest),
        };
        let Some(Ok(value)) = value.strip_prefix(' ').map(|value| value.split(' ').next().unwrap_or_default().parse()) else {
            continue;
        };
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        samples.push((
            labels.map(|(key, value)| KeyValue::new(key.to_owned(), value.trim_matches('"').to_owned())).collect(),
            value,
        ));
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP tidegate_calls Calls.\n# TYPE tidegate_calls counter\n\
                        tidegate_calls_total{method=\"Produce\",result=\"ok\"} 3\n\
                        # HELP tidegate_topics Topics.\n# TYPE tidegate_topics gauge\ntidegate_topics 2\n\
                        # TYPE tidegate_seconds histogram\ntidegate_seconds_sum 1.0\n# EOF\n";

    #[test]
    fn counters_and_gauges_are_found_with_their_help() {
        let found = families(TEXT);
        let names: Vec<(&str, bool)> = found.iter().map(|family| (family.name.as_str(), family.is_counter)).collect();
        assert_eq!(names, [("tidegate_calls", true), ("tidegate_topics", false)]);
        assert_eq!(found[0].help, "Calls.");
    }

    #[test]
    fn samples_carry_their_labels() {
        let labels = vec![KeyValue::new("method", "Produce"), KeyValue::new("result", "ok")];
        assert_eq!(samples(TEXT, "tidegate_calls_total"), [(labels, 3.0)]);
        assert_eq!(samples(TEXT, "tidegate_topics"), [(vec![], 2.0)]);
    }
}
