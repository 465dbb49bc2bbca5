//! The process itself, by the names that Prometheus's own clients use. Linux alone says it.

use std::{fmt, fs};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::gauges::gauge;

/// What the kernel says of this process.
struct Process {
    cpu_seconds: f64,
    started_at: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    threads: u64,
    open_descriptors: u64,
    most_descriptors: Option<u64>,
}

impl Process {
    /// `None` where there is no `/proc`.
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The program's name stands in parentheses, and may have some itself.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // Counted as in proc_pid_stat(5), where the state that follows the name is the third.
        let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let booted = fs::read_to_string("/proc/stat").ok()?;
        let booted = booted
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?;
        let booted: f64 = booted.trim().parse().ok()?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
            threads: field(20)?,
            started_at: booted + field(22)? as f64 / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * rustix::param::page_size() as u64,
            open_descriptors: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            most_descriptors: limit.current,
        })
    }
}

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(process) = Process::read() else {
        return Ok(());
    };
    let seconds = Some(&Unit::Seconds);
    let bytes = Some(&Unit::Bytes);
    let help = "CPU time that the process has used, of user and system";
    let family = encoder.encode_descriptor("process_cpu", help, seconds, MetricType::Counter)?;
    ConstCounter::new(process.cpu_seconds).encode(family)?;
    let (name, help) = (
        "process_start_time",
        "When the process started, in Unix time",
    );
    let family = encoder.encode_descriptor(name, help, seconds, MetricType::Gauge)?;
    ConstGauge::new(process.started_at).encode(family)?;
    gauge(
        encoder,
        ("process_resident_memory", "Memory of the process in RAM"),
        bytes,
        process.resident_bytes,
    )?;
    gauge(
        encoder,
        ("process_virtual_memory", "Address space of the process"),
        bytes,
        process.virtual_bytes,
    )?;
    gauge(
        encoder,
        ("process_threads", "Threads"),
        None,
        process.threads,
    )?;
    gauge(
        encoder,
        ("process_open_fds", "Open file descriptors"),
        None,
        process.open_descriptors,
    )?;
    match process.most_descriptors {
        Some(most) => gauge(encoder, ("process_max_fds", "Most of them"), None, most),
        None => Ok(()),
    }
}
