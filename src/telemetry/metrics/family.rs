//! Families of series, in the structs that the library's encoder takes.

use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use crate::live::counters::{BUCKETS, HistogramTotal};

/// A metric's name, type, help text and label names.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub(super) name: &'static str,
    kind: MetricType,
    pub(super) help: &'static str,
    pub(super) labels: LabelNames,
}

type LabelNames = &'static [&'static str];

#[must_use]
pub const fn counter(name: &'static str, help: &'static str, labels: LabelNames) -> Family {
    Family { name, kind: MetricType::COUNTER, help, labels }
}

#[must_use]
pub const fn gauge(name: &'static str, help: &'static str, labels: LabelNames) -> Family {
    Family { name, kind: MetricType::GAUGE, help, labels }
}

#[must_use]
pub(super) const fn histogram(name: &'static str, help: &'static str, labels: LabelNames) -> Family {
    Family { name, kind: MetricType::HISTOGRAM, help, labels }
}

impl Family {
    /// The family with these series.
    pub(super) fn of(&self, series: impl IntoIterator<Item = Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.into());
        family.set_help(self.help.into());
        family.set_field_type(self.kind);
        family.set_metric(series.into_iter().collect());
        family
    }

    /// One series of a counter or a gauge.
    pub(super) fn value(&self, labels: &[&str], value: f64) -> Metric {
        let mut metric = self.series(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }

    /// One series of a histogram.
    pub(super) fn histogram(&self, labels: &[&str], total: &HistogramTotal) -> Metric {
        let mut cumulative = 0;
        // The encoder adds the infinite bucket.
        let buckets = BUCKETS.iter().zip(total.buckets).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(total.count());
        histogram.set_sample_sum(total.seconds);
        let mut metric = self.series(labels);
        metric.set_histogram(histogram);
        metric
    }

    fn series(&self, values: &[&str]) -> Metric {
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*value).into());
            pair
        };
        Metric::from_label(self.labels.iter().zip(values).map(pair).collect())
    }
}
