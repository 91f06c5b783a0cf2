//! Numbers, times and names as people read them.

pub(super) fn kind_name(kind: u8) -> String {
    let names = [
        "",
        "events",
        "refusals",
        "starts",
        "stops",
        "heartbeats",
        "addenda",
        "key transitions",
        "gap declarations",
        "erasures",
        "prunings",
        "changes of mode",
    ];
    names
        .get(usize::from(kind))
        .filter(|name| !name.is_empty())
        .map_or_else(|| format!("of kind {kind}"), |name| (*name).to_owned())
}

pub(super) fn set_name(set: &str) -> String {
    match set {
        "pci-dss-4" => "PCI DSS 4.0",
        "soc2" => "SOC 2",
        "iso27001" => "ISO/IEC 27001:2022",
        "nist-800-53" => "NIST SP 800-53 Rev. 5",
        "hipaa" => "the HIPAA Security Rule",
        other => other,
    }
    .to_owned()
}

/// A number as people read it.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn micros(us: u64) -> String {
    second(i64::try_from(us).unwrap_or(i64::MAX))
}

pub(super) fn second(us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map_or_else(|| "an unknown time".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// `2026-01-05T12:00:00.000000Z` to the minute.
pub(super) fn minute(time: &str) -> String {
    time.get(..16).map_or_else(|| time.to_owned(), |head| head.replace('T', " "))
}

pub(super) fn day(time: &str) -> String {
    time.get(..10).unwrap_or(time).to_owned()
}
