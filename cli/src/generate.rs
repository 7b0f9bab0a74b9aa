//! A generator of events that look real: sensor readings, card transactions and clicks on a shop, each a JSON object with a key and a time.
//!
//! The same seed gives the same events. Knows nothing of hubs or topics.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// What kind of events to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Temperature and humidity of 200 sensors in 12 buildings; keyed by sensor.
    Sensors,
    /// Card payments, a few of them suspicious; keyed by card.
    Transactions,
    /// Page views, carts and orders of a shop; keyed by visitor.
    Clicks,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// Decides the partition: events of one key stay in order.
    pub(crate) key: String,
    /// The event as JSON.
    pub(crate) value: Value,
    /// When it happened, in milliseconds since 1970.
    pub(crate) timestamp_ms: i64,
}

/// An endless stream of events of one kind.
pub(crate) struct Generator {
    kind: Kind,
    random: SmallRng,
    start_ms: i64,
    time_ms: i64,
    step_ms: f64,
    temperatures: Vec<f64>,
    made: u64,
}

const SENSORS: usize = 200;
const BUILDINGS: usize = 12;
const CARDS: u32 = 5_000;
const VISITORS: u32 = 2_000;
const MERCHANTS: [(&str, f64); 8] = [
    ("Corner Bakery", 6.0),
    ("Green Grocer", 38.0),
    ("City Transit", 3.2),
    ("Book Cellar", 22.0),
    ("North Fuel", 64.0),
    ("Sound & Vision", 240.0),
    ("Harbour Hotel", 180.0),
    ("Garden Centre", 47.0),
];
const CITIES: [&str; 8] = ["Lisbon", "Oslo", "Kraków", "Turin", "Ghent", "Graz", "Leeds", "Nantes"];
const PAGES: [&str; 8] = ["/", "/search", "/kettles", "/kettles/blue", "/lamps", "/lamps/desk", "/cart", "/checkout"];

impl Generator {
    /// Starts at `start_ms`; times advance by `1000 / events_per_second` each.
    pub(crate) fn new(kind: Kind, seed: u64, start_ms: i64, events_per_second: f64) -> Generator {
        let mut random = SmallRng::seed_from_u64(seed);
        let temperatures = (0..SENSORS).map(|_| random.random_range(17.0..24.0)).collect();
        Generator {
            kind,
            random,
            start_ms,
            time_ms: start_ms,
            step_ms: 1000.0 / events_per_second.max(0.001),
            temperatures,
            made: 0,
        }
    }

    fn advance(&mut self) {
        self.made += 1;
        self.time_ms = self.start_ms + (self.made as f64 * self.step_ms) as i64;
    }

    fn sensor(&mut self) -> (String, Value) {
        let sensor = self.random.random_range(0..SENSORS);
        let drift = self.random.random_range(-0.2..0.2);
        let temperature = &mut self.temperatures[sensor];
        *temperature = (*temperature + drift).clamp(5.0, 40.0);
        let celsius = (*temperature * 100.0).round() / 100.0;
        let key = format!("sensor-{sensor:03}");
        let value = json!({
            "sensor": key, "building": format!("b{:02}", sensor % BUILDINGS), "celsius": celsius,
            "humidity": self.random.random_range(25..70), "battery": self.random.random_range(20..=100),
        });
        (key, value)
    }

    fn transaction(&mut self) -> (String, Value) {
        let card = format!("card-{:05}", self.random.random_range(0..CARDS));
        let (merchant, usual) = MERCHANTS[self.random.random_range(0..MERCHANTS.len())];
        let suspicious = self.random.random_range(0..200) == 0;
        let factor: f64 = if suspicious { self.random.random_range(15.0..40.0) } else { self.random.random_range(0.4..1.9) };
        let value = json!({
            "card": card, "merchant": merchant, "city": CITIES[self.random.random_range(0..CITIES.len())],
            "amount": (usual * factor * 100.0).round() / 100.0, "currency": "EUR", "online": self.random.random_bool(0.4),
        });
        (card, value)
    }

    fn click(&mut self) -> (String, Value) {
        let visitor = format!("visitor-{:04}", self.random.random_range(0..VISITORS));
        // A squared draw: the first pages are visited most.
        let draw: f64 = self.random.random_range(0.0..1.0);
        let page = PAGES[(draw * draw * PAGES.len() as f64) as usize];
        let action = if page == "/checkout" && self.random.random_bool(0.5) { "order" } else { "view" };
        let value = json!({
            "visitor": visitor, "page": page, "action": action, "milliseconds": self.random.random_range(20..900),
            "device": if self.random.random_bool(0.6) { "phone" } else { "desktop" },
        });
        (visitor, value)
    }
}

impl Iterator for Generator {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.advance();
        let (key, mut value) = match self.kind {
            Kind::Sensors => self.sensor(),
            Kind::Transactions => self.transaction(),
            Kind::Clicks => self.click(),
        };
        value["time"] = json!(self.time_ms);
        Some(Event { key, value, timestamp_ms: self.time_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_events_and_another_seed_others() {
        for kind in [Kind::Sensors, Kind::Transactions, Kind::Clicks] {
            let take = |seed| Generator::new(kind, seed, 1_000, 100.0).take(500).collect::<Vec<_>>();
            assert_eq!(take(7), take(7));
            assert_ne!(take(7), take(8));
        }
    }

    #[test]
    fn times_advance_at_the_stated_rate_and_never_fall() {
        let events: Vec<Event> = Generator::new(Kind::Sensors, 1, 0, 100.0).take(1_000).collect();
        assert!(events.windows(2).all(|pair| pair[0].timestamp_ms <= pair[1].timestamp_ms));
        let last = events.last().unwrap().timestamp_ms;
        assert!((9_000..=10_000).contains(&last), "{last}");
    }
}
