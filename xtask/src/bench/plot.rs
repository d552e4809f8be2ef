//! Plots for the documentation: SVG that is readable on light and on dark pages, with its values beside what they
//! are of, and one colour for snowmint.

use std::iter;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::coord::combinators::WithKeyPoints;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A colour, and what it is where the reader prefers dark pages.
struct Shade {
    light: RGBColor,
    dark: &'static str,
}

const PAPER: Shade = Shade { light: RGBColor(0xFF, 0xFF, 0xFF), dark: "#0D1117" };
const INK: Shade = Shade { light: RGBColor(0x1F, 0x23, 0x28), dark: "#E6EDF3" };
const SOFT_INK: Shade = Shade { light: RGBColor(0x59, 0x63, 0x6E), dark: "#9198A1" };
const GRID: Shade = Shade { light: RGBColor(0xDE, 0xE3, 0xE8), dark: "#2A3038" };
const SNOWMINT: Shade = Shade { light: RGBColor(0x08, 0x7F, 0xB5), dark: "#4CC2F0" };
const VIOLET: Shade = Shade { light: RGBColor(0x7A, 0x4F, 0xC4), dark: "#B49AFF" };
const AMBER: Shade = Shade { light: RGBColor(0xB3, 0x5C, 0x00), dark: "#F0A35E" };
const PEER: Shade = Shade { light: RGBColor(0xA8, 0xB1, 0xBB), dark: "#5C6670" };
const SHADES: [Shade; 8] = [PAPER, INK, SOFT_INK, GRID, SNOWMINT, VIOLET, AMBER, PEER];

const FONT: &str = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif";
const TITLE_PX: u32 = 18;
const TEXT_PX: u32 = 13;
const NOTE_PX: u32 = 11;

const MARGIN_PX: u32 = 20;
const HEAD_PX: u32 = 56;
const TITLE_TOP_PX: i32 = 24;

/// Whose a bar or a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// snowmint's.
    Snowmint,
    /// Another of snowmint's in the same plot.
    Violet,
    /// And another.
    Amber,
    /// What snowmint is compared with.
    Peer,
}

impl Tone {
    const fn colour(self) -> RGBColor {
        match self {
            Self::Snowmint => SNOWMINT.light,
            Self::Violet => VIOLET.light,
            Self::Amber => AMBER.light,
            Self::Peer => PEER.light,
        }
    }
}

/// Bars that are compared with each other: they start at zero and share one scale.
pub(crate) struct Panel {
    /// What is shown, and in what unit.
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// One value.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// What has to be known to compare it fairly.
    pub(crate) note: String,
    pub(crate) tone: Tone,
}

const BARS_WIDTH_PX: u32 = 1000;
const BARS_LEFT_PX: i32 = 210;
/// The longest bar's length.
const BAR_LENGTH_PX: f64 = 340.0;
const BAR_HEIGHT_PX: i32 = 16;
const NOTES_LEFT_PX: i32 = 640;
const ROW_PX: i32 = 23;
const PANEL_HEAD_PX: i32 = 18;
const PANEL_GAP_PX: i32 = 26;

/// Panels of horizontal bars, each with its value at its end.
pub(crate) fn bars(title: &str, panels: &[Panel]) -> Result<String> {
    let rows: i32 = panels.iter().map(Panel::height_px).sum();
    draw(title, (BARS_WIDTH_PX, HEAD_PX + rows.unsigned_abs()), |root| {
        let mut top = pixels(HEAD_PX);
        for panel in panels {
            panel.draw(root, top)?;
            top += panel.height_px();
        }
        Ok(())
    })
}

impl Panel {
    fn height_px(&self) -> i32 {
        let rows = i32::try_from(self.bars.len()).unwrap_or(i32::MAX / ROW_PX);
        PANEL_HEAD_PX + rows * ROW_PX + PANEL_GAP_PX
    }

    fn draw(&self, root: &Area, mut top: i32) -> Result<()> {
        write(root, &self.title, (pixels(MARGIN_PX), top), &bold(TEXT_PX, INK.light, HPos::Left))?;
        top += PANEL_HEAD_PX;
        let longest = self.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        for Bar { label, value, note, tone } in &self.bars {
            let middle = top + BAR_HEIGHT_PX / 2;
            let end = BARS_LEFT_PX + to_pixels((value / longest * BAR_LENGTH_PX).max(1.0));
            let ours = *tone != Tone::Peer;
            let style = if ours { bold } else { plain };
            write(root, label, (BARS_LEFT_PX - 10, middle), &style(TEXT_PX, INK.light, HPos::Right))?;
            let bar = [(BARS_LEFT_PX, top), (end, top + BAR_HEIGHT_PX)];
            root.draw(&Rectangle::new(bar, tone.colour().filled()))?;
            write(root, &short(*value), (end + 7, middle), &style(TEXT_PX, INK.light, HPos::Left))?;
            write(root, note, (NOTES_LEFT_PX, middle), &plain(NOTE_PX, SOFT_INK.light, HPos::Left))?;
            top += ROW_PX;
        }
        Ok(())
    }
}

/// A line through points, in the order of their x.
pub(crate) struct Series {
    pub(crate) label: String,
    /// Above zero, as the axes are logarithmic.
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) tone: Tone,
}

const LINES_WIDTH_PX: u32 = 860;
const LINES_HEIGHT_PX: u32 = 420;
/// Where the lines' names are, at their ends.
const LABELS_PX: u32 = 190;
/// Where the numbers of the axes are.
const NUMBERS_PX: u32 = 46;
const LABEL_GAP_PX: i32 = 16;
/// Between a line and the plot's edges, as a factor.
const ROOM: f64 = 1.25;

/// Lines on two logarithmic axes, each named at its end. An axis's label says its unit.
pub(crate) fn lines(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> Result<String> {
    let points = || series.iter().flat_map(|line| &line.points);
    let (x_from, x_to) = span(points().map(|point| point.0)).context("there are points")?;
    let (y_from, y_to) = span(points().map(|point| point.1)).context("there are points")?;
    draw(title, (LINES_WIDTH_PX, LINES_HEIGHT_PX), |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(MARGIN_PX)
            .margin_top(HEAD_PX)
            .margin_right(LABELS_PX)
            .x_label_area_size(NUMBERS_PX)
            .y_label_area_size(NUMBERS_PX + MARGIN_PX)
            .build_cartesian_2d(axis(x_from / ROOM, x_to * ROOM), axis(y_from / ROOM, y_to * ROOM))?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.light)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.light)
            .x_desc(x_label)
            .y_desc(y_label)
            .axis_desc_style(plain(TEXT_PX, SOFT_INK.light, HPos::Center))
            .label_style(plain(NOTE_PX, SOFT_INK.light, HPos::Center))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        let mut ends = Vec::new();
        for Series { label, points, tone } in series {
            let colour = tone.colour();
            chart.draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])?;
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            if let Some(last) = points.last() {
                ends.push((chart.backend_coord(last), label, *tone));
            }
        }
        name_ends(root, ends)
    })
}

/// Marked at 1, 10, 100, and where that would be few marks also at 2 and 5 times them.
fn axis(from: f64, to: f64) -> WithKeyPoints<LogCoord<f64>> {
    let steps: &[f64] = if to / from < 200.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let decades = iter::successors(Some(10_f64.powf(from.log10().floor())), |decade| Some(decade * 10.0));
    let marks = decades
        .take_while(|decade| *decade <= to)
        .flat_map(|decade| steps.iter().map(move |step| decade * step));
    (from..to).log_scale().with_key_points(marks.filter(|mark| (from..=to).contains(mark)).collect())
}

/// Names the lines at their ends, with enough room between two names.
fn name_ends(root: &Area, mut ends: Vec<((i32, i32), &String, Tone)>) -> Result<()> {
    ends.sort_by_key(|((_, y), ..)| *y);
    let mut free_from = i32::MIN;
    for ((x, y), label, tone) in ends {
        let y = y.max(free_from);
        let colour = if tone == Tone::Peer { SOFT_INK.light } else { tone.colour() };
        write(root, label, (x + 10, y), &bold(TEXT_PX, colour, HPos::Left))?;
        free_from = y + LABEL_GAP_PX;
    }
    Ok(())
}

fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |span, value| {
        let (from, to) = span.unwrap_or((value, value));
        Some((from.min(value), to.max(value)))
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws on paper with a title, and lets the page choose between the light and the dark colours.
fn draw(title: &str, size_px: (u32, u32), draw_on: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size_px).into_drawing_area();
        root.fill(&PAPER.light)?;
        write(&root, title, (pixels(MARGIN_PX), TITLE_TOP_PX), &bold(TITLE_PX, INK.light, HPos::Left))?;
        draw_on(&root)?;
        root.present()?;
    }
    let head = svg.find("<svg").and_then(|start| svg[start..].find('>').map(|end| start + end + 1));
    svg.insert_str(head.context("an SVG has a head")?, &dark_style());
    Ok(svg)
}

/// The drawing's colours are attributes, which a style may overrule.
fn dark_style() -> String {
    let rules = SHADES.map(|Shade { light: RGBColor(red, green, blue), dark }| {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}\n")
    });
    let rules = rules.concat();
    format!("\n<style>@media (prefers-color-scheme: dark) {{\n{rules}}}</style>")
}

/// Letters of which the middle of the height is what is placed.
fn plain(size_px: u32, colour: RGBColor, side: HPos) -> TextStyle<'static> {
    // What the size of a font is to the drawing is more than what it is to the page.
    let font = (FONT, f64::from(size_px) * 1.24).into_font();
    font.color(&colour).pos(Pos::new(side, VPos::Center))
}

fn bold(size_px: u32, colour: RGBColor, side: HPos) -> TextStyle<'static> {
    let TextStyle { font, color, pos } = plain(size_px, colour, side);
    TextStyle { font: font.style(FontStyle::Bold), color, pos }
}

fn write(root: &Area, text: &str, at: (i32, i32), style: &TextStyle) -> Result<()> {
    Ok(root.draw(&Text::new(text, at, style))?)
}

/// Three digits that matter, with thousands and millions as letters: 1234567 is 1.23 M.
fn short(value: f64) -> String {
    let (value, letter) = match value {
        large if large >= 999.5e6 => (value / 1e9, " G"),
        large if large >= 999.5e3 => (value / 1e6, " M"),
        large if large >= 999.5 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let places = match value {
        three_digits if three_digits >= 99.95 => 0,
        two_digits if two_digits >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
}

fn pixels(value: u32) -> i32 {
    i32::try_from(value).expect("a plot is some hundred pixels large")
}

#[expect(clippy::cast_possible_truncation, reason = "a plot is some hundred pixels large")]
fn to_pixels(value: f64) -> i32 {
    value.round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.047, 1.0, 12.34, 140_700.0, 999_999.0, 4_096_000.0, 100e6, 1.5e9];
        let texts = numbers.map(short);
        assert_eq!(texts, ["0", "0.05", "1", "12.3", "141 k", "1 M", "4.1 M", "100 M", "1.5 G"]);
    }

    #[test]
    fn bars_are_as_long_as_their_values() -> Result<()> {
        let bar = |value, tone| Bar { label: "A & B".into(), value, note: "in memory".into(), tone };
        let bars = vec![bar(2.0, Tone::Snowmint), bar(1.0, Tone::Peer)];
        let svg = self::bars("Title", &[Panel { title: "requests/s".into(), bars }])?;
        assert!(svg.contains("A &amp; B"), "{svg}");
        for (length, colour) in [(BAR_LENGTH_PX, "#087FB5"), (BAR_LENGTH_PX / 2.0, "#A8B1BB")] {
            let bar = svg.lines().find(|line| line.contains("<rect") && line.contains(colour));
            assert!(bar.is_some_and(|bar| bar.contains(&format!("width=\"{length}\""))), "{svg}");
        }
        Ok(())
    }

    #[test]
    fn lines_are_named_where_they_end() -> Result<()> {
        let line = |label: &str, y, tone| Series {
            label: label.into(),
            points: vec![(1.0, 10.0), (100.0, y), (10_000.0, y)],
            tone,
        };
        let series = [line("REST", 40.0, Tone::Snowmint), line("bare hyper", 41.0, Tone::Peer)];
        let svg = lines("Title", "connections", "us per request", &series)?;
        assert!(svg.contains("REST") && svg.contains("bare hyper") && svg.contains("10 k"), "{svg}");
        assert!(lines("Title", "x", "y", &[]).is_err(), "nothing has no extent");
        Ok(())
    }
}
