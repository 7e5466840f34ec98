//! Panels as a picture. An SVG names fonts for its viewer to find; a PNG needs none.

use std::fmt::Debug;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::Canvas;
use super::curves::{Group, Panel, Span, short, steps};

const WIDTH: u32 = 1000;
const PANEL_HEIGHT: u32 = 220;
const TITLE_HEIGHT: u32 = 36;
/// Blue and orange, told apart by the colour-blind too (Okabe and Ito).
const COLORS: [RGBColor; 2] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0)];
const FONT: &str = "sans-serif";
/// Lines with fewer points get a dot at each.
const FEW: usize = 60;
/// Most points of a line; where there are more, their means are joined and a
/// band shows how far they spread.
const GROUPS: usize = 250;

/// The drawing library gave up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct PictureError(String);

impl PictureError {
    fn of(error: impl Debug) -> Self {
        Self(format!("{error:?}"))
    }
}

/// The bytes of a PNG file.
pub(super) fn png(title: &str, panels: &[Panel]) -> Result<Vec<u8>, PictureError> {
    let (width, height) = size(panels);
    let mut pixels = vec![255; Canvas::bytes(width, height)];
    draw(Canvas::new(width, height, &mut pixels), title, panels)?;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(PictureError::of)?;
    writer.write_image_data(&pixels).map_err(PictureError::of)?;
    writer.finish().map_err(PictureError::of)?;
    Ok(file)
}

/// The text of an SVG file.
pub(super) fn svg(title: &str, panels: &[Panel]) -> Result<String, PictureError> {
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, size(panels)), title, panels)?;
    Ok(text)
}

fn size(panels: &[Panel]) -> (u32, u32) {
    let count = u32::try_from(panels.len()).unwrap_or(u32::MAX);
    (WIDTH, TITLE_HEIGHT + PANEL_HEIGHT.saturating_mul(count))
}

fn draw<B: DrawingBackend>(backend: B, title: &str, panels: &[Panel]) -> Result<(), PictureError> {
    let root = backend.into_drawing_area();
    root.fill(&WHITE).map_err(PictureError::of)?;
    let (heading, below) = root.split_vertically(TITLE_HEIGHT);
    let center = Pos::new(HPos::Center, VPos::Center);
    let style = TextStyle::from((FONT, 20)).pos(center);
    let middle = (WIDTH.cast_signed() / 2, TITLE_HEIGHT.cast_signed() / 2);
    heading.draw_text(title, &style, middle).map_err(PictureError::of)?;
    let x = steps(panels);
    for (area, panel) in below.split_evenly((panels.len(), 1)).iter().zip(panels) {
        draw_panel(area, panel, x)?;
    }
    root.present().map_err(PictureError::of)
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    panel: &Panel,
    x: Span,
) -> Result<(), PictureError> {
    let y = panel.values();
    // A curve that touches the frame is hard to see.
    let room = (y.high - y.low) * 0.05;
    let mut chart = ChartBuilder::on(area)
        .margin_right(24)
        .margin_left(8)
        .caption(panel.title, (FONT, 16))
        .x_label_area_size(44)
        .y_label_area_size(80)
        .build_cartesian_2d(x.low..x.high, y.low - room..y.high + room)
        .map_err(PictureError::of)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(10)
        .y_labels(5)
        .x_label_formatter(&|step| short(*step))
        .y_label_formatter(&|value| tick(*value, y))
        .x_desc("optimizer step")
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 14))
        .draw()
        .map_err(PictureError::of)?;
    for (line, color) in panel.lines.iter().zip(COLORS.iter().cycle()) {
        let groups = line.groups(GROUPS);
        if groups.len() < line.points.len() {
            let spread = |group: &Group| {
                let Group { steps, values, .. } = *group;
                let corners = [(steps.low, values.low), (steps.high, values.high)];
                Rectangle::new(corners, color.mix(0.2).filled())
            };
            chart.draw_series(groups.iter().map(spread)).map_err(PictureError::of)?;
        }
        let style = color.stroke_width(2);
        let dots = if groups.len() < FEW { 3 } else { 0 };
        let means = groups.iter().map(|group| group.mean);
        chart
            .draw_series(LineSeries::new(means, style.filled()).point_size(dots))
            .map_err(PictureError::of)?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if panel.lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(legend_place(panel, y))
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font((FONT, 14))
            .draw()
            .map_err(PictureError::of)?;
    }
    Ok(())
}

/// Sums of steps of an axis miss 0 by a rounding error.
fn tick(value: f64, axis: Span) -> String {
    let zero = value.abs() < (axis.high - axis.low) * 1e-9;
    short(if zero { 0.0 } else { value })
}

/// At the end of the curve, where the curve is not.
fn legend_place(panel: &Panel, y: Span) -> SeriesLabelPosition {
    let end = panel.lines.first().and_then(|line| line.points.last());
    if end.is_some_and(|(_, value)| y.share(*value) > 0.5) {
        SeriesLabelPosition::LowerRight
    } else {
        SeriesLabelPosition::UpperRight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::curves::{Line, panels, tests::example};

    #[test]
    fn an_svg_says_what_is_drawn_with_units() {
        let text = svg("team/spam", &panels(&example())).unwrap();
        for said in
            ["team/spam", "loss (nats)", "evaluation", "optimizer step", "tokens/s", "2.0e-4"]
        {
            assert!(text.contains(said), "{said} is not in {text}");
        }
    }

    #[test]
    fn a_tick_at_zero_is_zero() {
        let axis = Span { low: -1e-5, high: 4e-4 };
        assert_eq!((tick(-1.4e-20, axis), tick(1e-4, axis)), ("0".into(), "1.0e-4".into()));
    }

    /// The planted bug: a path drawn as one outline shoots out of its panel.
    #[test]
    fn a_line_stays_in_its_panel() {
        let noise = |step: i32| (f64::from(step), f64::from(step * 7919 % 31));
        let line = Line { name: "noise", points: (0..250).map(noise).collect() };
        let flat = Line { name: "flat", points: vec![(0.0, 1.0), (249.0, 1.0)] };
        let panel = |line| Panel { title: "x", lines: vec![line] };
        let (width, height) = size(&[panel(flat.clone()), panel(line.clone())]);
        let mut pixels = vec![255; Canvas::bytes(width, height)];
        let panels = [panel(flat), panel(line)];
        draw(Canvas::new(width, height, &mut pixels), "x", &panels).unwrap();
        let first = 3 * (WIDTH * (TITLE_HEIGHT + PANEL_HEIGHT)) as usize;
        let blue = pixels[..first].chunks(3).filter(|pixel| *pixel == [0, 114, 178]).count();
        assert!(blue < 3 * WIDTH as usize, "{blue} pixels of a flat line");
    }

    #[test]
    fn a_png_shows_lines_and_letters_without_any_font() {
        let panels = panels(&example());
        let file = png("team/spam", &panels).unwrap();
        let decoder = png::Decoder::new(std::io::Cursor::new(file));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), size(&panels));
        let count = |red, green, blue| {
            pixels.chunks(3).filter(|pixel| *pixel == [red, green, blue]).count()
        };
        assert!(count(0, 114, 178) > 500, "the first lines");
        assert!(count(213, 94, 0) > 20, "the evaluations");
        let heading = &pixels[..3 * WIDTH as usize * TITLE_HEIGHT as usize];
        assert!(heading.iter().filter(|byte| **byte < 64).count() > 200, "the title");
    }
}
