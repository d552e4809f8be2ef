//! Plots of characters: columns over time, and bars.

use std::io::{self, Write};

use jiff::Timestamp;

/// How wide a plot is where the terminal does not say.
const WIDTH: usize = 80;
/// Less than this is not worth plotting.
const WIDTH_MIN: usize = 40;
const WIDTH_MAX: usize = 200;

/// How high the columns are, in lines.
const HEIGHT: usize = 8;

/// How wide one column is at most, where there are few.
const COLUMN_MAX: u64 = 6;

/// A line or a column in eighths.
const UPWARDS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const RIGHTWARDS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// How wide the terminal is.
pub(super) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { WIDTH } else { columns.clamp(WIDTH_MIN, WIDTH_MAX) }
}

/// Values over time.
pub(super) struct Columns {
    /// What the values are, with their unit.
    pub(super) title: String,
    /// The start of the time of one value, in Unix milliseconds, and the value.
    pub(super) values: Vec<(u64, f64)>,
    /// How long the time of one value is, in milliseconds.
    pub(super) unit_ms: u64,
    /// And what it is called.
    pub(super) unit: &'static str,
}

impl Columns {
    pub(super) fn write(&self, out: &mut dyn Write, width: usize) -> io::Result<()> {
        let times = self.values.iter().map(|(at_ms, _)| *at_ms);
        let (Some(first), Some(last)) = (times.clone().min(), times.max()) else { return Ok(()) };
        let highest = self.values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let labels = [number(highest), number(highest / 2.0), number(0.0)];
        let label_width = labels.iter().map(String::len).max().unwrap_or(0);
        let room = (width - label_width - 2) as u64;
        let units = (last - first) / self.unit_ms + 1;
        // Many units share a column, or a unit has several.
        let units_per_column = units.div_ceil(room);
        let columns = units.div_ceil(units_per_column);
        let wide = (room / columns).clamp(1, COLUMN_MAX);

        let mut heights = vec![0.0_f64; usize_of(columns)];
        for (at_ms, value) in &self.values {
            let height = &mut heights[usize_of((at_ms - first) / self.unit_ms / units_per_column)];
            *height = height.max(*value);
        }
        let each = match units_per_column {
            1 => format!("a column for each {}", self.unit),
            many => format!("a column for {many} {}s, of which the highest", self.unit),
        };
        writeln!(out, "{} ({each})", self.title)?;
        for line in (0..HEIGHT).rev() {
            let label = match line {
                _ if line == HEIGHT - 1 => &labels[0],
                _ if line == HEIGHT / 2 - 1 => &labels[1],
                _ => "",
            };
            let cells = heights.iter().flat_map(|height| {
                let eighths = eighths(*height, highest, HEIGHT).saturating_sub(line * 8).min(8);
                std::iter::repeat_n(UPWARDS[eighths], usize_of(wide))
            });
            let cells: String = cells.collect();
            writeln!(out, "{}", format!("{label:>label_width$} ┤{cells}").trim_end())?;
        }
        let axis = usize_of(columns * wide);
        writeln!(out, "{:>label_width$} └{}", labels[2], "─".repeat(axis))?;
        let (from, to) = (time(first), format!("{} UTC", time(last)));
        let gap = axis.saturating_sub(from.len() + to.len()).max(2);
        writeln!(out, "{:label_width$}  {from}{:gap$}{to}", "", "")
    }
}

/// Values beside each other.
pub(super) struct Bars {
    /// What the values are, with their unit.
    pub(super) title: String,
    /// What each belongs to, and the value.
    pub(super) values: Vec<(String, f64)>,
}

impl Bars {
    pub(super) fn write(&self, out: &mut dyn Write, width: usize) -> io::Result<()> {
        if self.values.is_empty() {
            return Ok(());
        }
        writeln!(out, "{}", self.title)?;
        let highest = self.values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let label_width = widest(&mut self.values.iter().map(|(label, _)| label.chars().count()));
        let number_width = widest(&mut self.values.iter().map(|(_, value)| number(*value).len()));
        let room = width.saturating_sub(label_width + number_width + 3).max(1);
        for (label, value) in &self.values {
            let eighths = eighths(*value, highest, room);
            let bar = "█".repeat(eighths / 8);
            let end = RIGHTWARDS[eighths % 8];
            let value = number(*value);
            writeln!(
                out,
                "{}",
                format!("{label:<label_width$} {value:>number_width$} {bar}{end}").trim_end()
            )?;
        }
        Ok(())
    }
}

/// How much of `cells` a value fills, in eighths: none only where it is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a few cells"
)]
fn eighths(value: f64, highest: f64, cells: usize) -> usize {
    if value <= 0.0 || highest <= 0.0 {
        return 0;
    }
    ((value / highest * (cells * 8) as f64).round() as usize).clamp(1, cells * 8)
}

/// A value that is easy to read: with three digits, in thousands, millions and so on.
pub(super) fn number(value: f64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (divisor, suffix) =
        steps.into_iter().find(|(step, _)| value.abs() >= *step * 0.9995).unwrap_or((1.0, ""));
    let value = value / divisor;
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{suffix}")
}

fn time(ms: u64) -> String {
    Timestamp::from_millisecond(ms.cast_signed())
        .map_or_else(|_| ms.to_string(), |time| time.strftime("%m-%d %H:%M").to_string())
}

/// The length of something that is on the screen.
fn usize_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_stand_where_their_time_is() {
        let values = vec![(0, 40.0), (60_000, 20.0), (180_000, 0.1)];
        let columns = Columns { title: "IDs".to_owned(), values, unit_ms: 60_000, unit: "minute" };
        let plot = written(|out| columns.write(out, 40));
        let lines: Vec<_> = plot.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 3);
        assert_eq!(lines[0], "IDs (a column for each minute)");
        assert_eq!(lines[1], "40 ┤██████");
        assert_eq!(lines[5], "20 ┤████████████");
        assert_eq!(lines[8], "   ┤████████████      ▁▁▁▁▁▁");
        assert_eq!(lines[9], " 0 └────────────────────────");
        assert!(lines[10].starts_with("    01-01 00:00") && lines[10].ends_with("01-01 00:03 UTC"), "{plot}");
    }

    #[test]
    fn more_times_than_there_is_room_for_share_columns() {
        let values = (0..1_000).map(|minute| (minute * 60_000, f64::from(u8::from(minute == 999)))).collect();
        let columns = Columns { title: "x".to_owned(), values, unit_ms: 60_000, unit: "minute" };
        let plot = written(|out| columns.write(out, 80));
        assert!(plot.lines().all(|line| line.chars().count() <= 80), "{plot}");
        assert!(plot.starts_with("x (a column for 14 minutes, of which the highest)"), "{plot}");
        assert!(plot.lines().nth(1).unwrap().ends_with(" █"), "{plot}");
    }

    #[test]
    fn bars_have_their_values_beside_them() {
        let values =
            vec![("a".to_owned(), 2_000_000.0), ("bc".to_owned(), 1_000_000.0), ("d".to_owned(), 0.0)];
        let plot = written(|out| Bars { title: "t".to_owned(), values: values.clone() }.write(out, 27));
        assert_eq!(plot, format!("t\na  2M {}\nbc 1M {}\nd   0\n", "█".repeat(20), "█".repeat(10)));
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (12.345, "12.3"),
            (999.4, "999"),
            (999.7, "1.00k"),
            (1_000.0, "1k"),
            (123_456_789.0, "123M"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
