//! Panels as a picture. An SVG names fonts for its viewer to find; a PNG needs none.

use std::fmt::Debug;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::Canvas;
use super::curves::{Panel, Span, short, steps};

const WIDTH: u32 = 1000;
const PANEL_HEIGHT: u32 = 220;
const TITLE_HEIGHT: u32 = 36;
/// Blue and orange, told apart by the colour-blind too (Okabe and Ito).
const COLORS: [RGBColor; 2] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0)];
const FONT: &str = "sans-serif";
/// Lines with fewer points get a dot at each.
const FEW: usize = 60;

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
        .y_label_formatter(&|value| short(*value))
        .x_desc("optimizer step")
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 14))
        .draw()
        .map_err(PictureError::of)?;
    for (line, color) in panel.lines.iter().zip(COLORS.iter().cycle()) {
        let style = color.stroke_width(2);
        let dots = if line.points.len() < FEW { 3 } else { 0 };
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(dots))
            .map_err(PictureError::of)?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if panel.lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font((FONT, 14))
            .draw()
            .map_err(PictureError::of)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::curves::{panels, tests::example};

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
