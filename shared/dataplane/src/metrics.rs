//! Metrics as a data plane keeps and tells them: plain cells on its own thread, JSON on request.

use std::cell::Cell;

use serde_json::{Value, json};

/// Upper bounds of the latency histograms, in microseconds.
pub const LATENCY_BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, amount: u64) {
        self.0.set(self.0.get() + amount);
    }

    /// The count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.get()
    }
}

/// Durations by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Cell<u64>; LATENCY_BOUNDS_US.len() + 1],
    sum_us: Cell<u64>,
}

impl Histogram {
    /// Count one duration.
    pub fn record(&self, duration_us: u64) {
        let bucket =
            LATENCY_BOUNDS_US.iter().position(|&bound| duration_us <= bound).unwrap_or(LATENCY_BOUNDS_US.len());
        self.buckets[bucket].set(self.buckets[bucket].get() + 1);
        self.sum_us.set(self.sum_us.get() + duration_us);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Cell::get).sum()
    }
}

/// A kind of metric family.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by bucket.
    Histogram,
}

/// The metric families of one process, as JSON (docs/contracts.md §6).
///
/// Threads of a process add to the same families one after the other.
#[derive(Default)]
pub struct Families(Vec<Value>);

impl Families {
    /// A family of counters or gauges: `(labels, value)` each. Left out when it has no sample.
    pub fn numbers<'a, I>(&mut self, name: &str, kind: Kind, help: &str, samples: I)
    where
        I: IntoIterator<Item = (Vec<(&'a str, &'a str)>, u64)>,
    {
        let samples: Vec<Value> = samples
            .into_iter()
            .map(|(labels, value)| json!({"labels": label_object(&labels), "value": value}))
            .collect();
        self.push(name, kind, help, &samples);
    }

    /// A family of histograms, in seconds.
    pub fn histograms<'a, I>(&mut self, name: &str, help: &str, samples: I)
    where
        I: IntoIterator<Item = (Vec<(&'a str, &'a str)>, &'a Histogram)>,
    {
        let samples: Vec<Value> = samples
            .into_iter()
            .map(|(labels, histogram)| {
                let mut below = 0;
                let buckets: Vec<Value> = LATENCY_BOUNDS_US
                    .iter()
                    .zip(&histogram.buckets)
                    .map(|(&bound, count)| {
                        below += count.get();
                        json!([bound as f64 / 1e6, below])
                    })
                    .collect();
                json!({
                    "labels": label_object(&labels), "buckets": buckets,
                    "sum": histogram.sum_us.get() as f64 / 1e6, "count": histogram.count(),
                })
            })
            .collect();
        self.push(name, Kind::Histogram, help, &samples);
    }

    fn push(&mut self, name: &str, kind: Kind, help: &str, samples: &[Value]) {
        if samples.is_empty() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        if let Some(Value::Array(known)) =
            self.0.iter_mut().find(|family| family["name"] == name).map(|family| &mut family["samples"])
        {
            known.extend_from_slice(samples);
            return;
        }
        self.0.push(json!({"name": name, "kind": kind, "help": help, "samples": samples}));
    }

    /// The JSON bytes.
    #[must_use]
    pub fn into_json(self) -> Vec<u8> {
        Value::Array(self.0).to_string().into_bytes()
    }
}

fn label_object(labels: &[(&str, &str)]) -> Value {
    labels.iter().map(|&(name, value)| (name.to_owned(), Value::from(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_buckets_are_cumulative_and_the_sum_is_in_seconds() {
        let histogram = Histogram::default();
        for duration in [400, 500, 501, 20_000_000] {
            histogram.record(duration);
        }
        let mut families = Families::default();
        families.histograms("x_seconds", "help", [(vec![("route", "api")], &histogram)]);
        families.numbers("empty", Kind::Gauge, "left out", Vec::new());
        families.histograms("x_seconds", "help", [(vec![("route", "web")], &histogram)]);
        let value: Value = serde_json::from_slice(&families.into_json()).expect("valid JSON");
        assert_eq!(value.as_array().map(Vec::len), Some(1));
        let sample = &value[0]["samples"][0];
        assert_eq!(sample["buckets"][0], json!([0.0005, 2]));
        assert_eq!(sample["buckets"][13], json!([10.0, 3]));
        assert_eq!((sample["count"].as_u64(), sample["sum"].as_f64()), (Some(4), Some(20.001_401)));
        assert_eq!(sample["labels"]["route"], "api");
        assert_eq!(value[0]["samples"][1]["labels"]["route"], "web");
    }
}
