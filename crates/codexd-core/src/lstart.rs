//! The start time of a process as `ps -o lstart=` prints it, which is how app-server daemons of the 0.131 era knew their
//! server again.
//!
//! The text is local time without its zone, so it means another moment in every time zone: upstream lost its server
//! whenever TZ changed. Here a text fits a process when *some* zone explains it: the difference to the true start is
//! a whole number of quarter hours between UTC-12 and UTC+14.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, fmt::strtime};

/// The boot time that the kernel tells may move a little with the clock's corrections.
const TOLERANCE_SECONDS: i64 = 3;
const QUARTER_HOUR_SECONDS: i64 = 900;

/// Whether `text` can be the start of a process that started `started_at_seconds` after 1970.
pub fn fits(text: &str, started_at_seconds: i64) -> bool {
    let Ok(local) = strtime::parse("%a %b %d %H:%M:%S %Y", text.trim()).and_then(|time| time.to_datetime())
    else {
        return false;
    };
    let Some(as_if_utc) = as_utc_seconds(local) else { return false };
    let offset = as_if_utc - started_at_seconds;
    let slack = TOLERANCE_SECONDS;
    let in_range = (-12 * 3600 - slack..=14 * 3600 + slack).contains(&offset);
    let beyond_quarter = offset.rem_euclid(QUARTER_HOUR_SECONDS);
    in_range && (beyond_quarter <= slack || beyond_quarter >= QUARTER_HOUR_SECONDS - slack)
}

/// The text for a process that started `started_at_seconds` after 1970, in `zone`.
pub fn format(started_at_seconds: i64, zone: &TimeZone) -> Option<String> {
    let moment = Timestamp::from_second(started_at_seconds).ok()?.to_zoned(zone.clone());
    strtime::format("%a %b %e %H:%M:%S %Y", &moment).ok()
}

fn as_utc_seconds(local: DateTime) -> Option<i64> {
    local.to_zoned(TimeZone::UTC).ok().map(|moment| moment.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::{fits, format};
    use jiff::tz::{Offset, TimeZone};
    use proptest::prelude::*;

    #[test]
    fn the_form_is_that_of_ps() {
        assert_eq!(format(1_795_144_900, &TimeZone::UTC).as_deref(), Some("Fri Nov 20 03:21:40 2026"));
        assert_eq!(format(1_793_935_300, &TimeZone::UTC).as_deref(), Some("Fri Nov  6 03:21:40 2026"));
        assert!(fits("Fri Nov  6 03:21:40 2026", 1_793_935_300));
    }

    proptest! {
        #[test]
        fn a_record_fits_its_process_in_every_zone(start in 1_700_000_000i64..1_900_000_000, quarter in -48i32..=56) {
            let zone = TimeZone::fixed(Offset::from_seconds(quarter * 900).expect("a zone"));
            let text = format(start, &zone).expect("a date");
            prop_assert!(fits(&text, start));
            prop_assert!(!fits(&text, start + 100), "another process that started 100 s later");
            prop_assert!(!fits(&text, start + 86_400 * 3));
        }
    }
}
