//! Panels in text: braille patterns (Unicode 2800 to 28FF) have 2 x 4 dots a cell.

use super::curves::{Line, Panel, Span, short, steps};

/// Rows of a panel.
const HEIGHT: usize = 8;
/// Columns for the numbers on the left.
const MARGIN: usize = 9;
/// Marks of the second line of a panel.
const MARK: char = '×';
const FIRST: &str = "\x1b[36m";
const SECOND: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";
/// Bits of a cell's dots, by column and row (Unicode's numbering goes down the
/// left column, down the right, and the last row came later).
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Columns in all.
    pub(super) width: usize,
    pub(super) colors: bool,
}

/// All panels, one below the other.
pub(super) fn draw(title: &str, panels: &[Panel], look: Look) -> String {
    let x = steps(panels);
    let mut rows = vec![title.to_owned()];
    for panel in panels {
        rows.push(String::new());
        rows.push(heading(panel, look));
        rows.extend(body(panel, x, look));
        rows.push(axis(x, look.width));
    }
    rows.join("\n")
}

fn heading(panel: &Panel, look: Look) -> String {
    let legend = match panel.lines.as_slice() {
        [first, second] => format!(
            "   {}   {}",
            paint(&format!("⠒ {}", first.name), FIRST, look),
            paint(&format!("{MARK} {}", second.name), SECOND, look)
        ),
        [only] if !panel.title.contains(only.name) => format!("   ⠒ {}", only.name),
        _ => String::new(),
    };
    format!("{:MARGIN$} {}{legend}", "", panel.title)
}

fn paint(text: &str, color: &str, look: Look) -> String {
    if look.colors { format!("{color}{text}{PLAIN}") } else { text.to_owned() }
}

/// Rows with the numbers of the axis at the top, in the middle and at the bottom.
fn body(panel: &Panel, x: Span, look: Look) -> Vec<String> {
    let columns = look.width.saturating_sub(MARGIN + 2).max(10);
    let condensed = panel.lines.iter().map(|line| line.condensed(columns));
    let panel = &Panel { title: panel.title, lines: condensed.collect() };
    let y = panel.values();
    let mut grid = Grid { columns, cells: vec![0; columns * HEIGHT] };
    if let Some(first) = panel.lines.first() {
        grid.line(first, x, y);
    }
    let marks: Vec<(usize, usize)> = panel
        .lines
        .iter()
        .skip(1)
        .flat_map(|line| &line.points)
        .map(|(step, value)| (place(x.share(*step), columns), place(1.0 - y.share(*value), HEIGHT)))
        .collect();
    (0..HEIGHT)
        .map(|row| {
            let label = match row {
                0 => short(y.high),
                row if row == HEIGHT / 2 => {
                    short(y.high - (y.high - y.low) * (row as f64 + 0.5) / HEIGHT as f64)
                }
                row if row == HEIGHT - 1 => short(y.low),
                _ => String::new(),
            };
            let cells: String = (0..columns)
                .map(|column| {
                    if marks.contains(&(column, row)) {
                        paint(&MARK.to_string(), SECOND, look)
                    } else {
                        match grid.cells[row * columns + column] {
                            0 => " ".to_owned(),
                            dots => paint(&braille(dots), FIRST, look),
                        }
                    }
                })
                .collect();
            format!("{label:>MARGIN$} ┤{}", cells.trim_end())
        })
        .collect()
}

fn axis(x: Span, width: usize) -> String {
    let (low, high) = (short(x.low), format!("{} optimizer steps", short(x.high)));
    let room = width.saturating_sub(MARGIN + 2 + low.len()).max(high.len() + 1);
    format!("{:MARGIN$} └{low}{high:>room$}", "")
}

fn braille(dots: u32) -> String {
    char::from_u32(0x2800 + dots).unwrap_or(' ').to_string()
}

/// Which of `count` places a share of 0 to 1 falls into.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the places there are"
)]
fn place(share: f64, count: usize) -> usize {
    ((share * count as f64).floor().max(0.0) as usize).min(count - 1)
}

/// Cells of a panel, by rows.
struct Grid {
    columns: usize,
    cells: Vec<u32>,
}

impl Grid {
    /// Joins a line's points.
    fn line(&mut self, line: &Line, x: Span, y: Span) {
        let dot = |(step, value): &(f64, f64)| {
            (place(x.share(*step), 2 * self.columns), place(1.0 - y.share(*value), 4 * HEIGHT))
        };
        let dots: Vec<_> = line.points.iter().map(dot).collect();
        let single = dots.first().map(|dot| [*dot, *dot]);
        let pairs = dots.windows(2).map(|pair| [pair[0], pair[1]]);
        for [from, to] in pairs.chain(single) {
            self.segment(from, to);
        }
    }

    fn segment(&mut self, from: (usize, usize), to: (usize, usize)) {
        let count = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
        for index in 0..=count {
            let between =
                |from: usize, to: usize| (from * (count - index) + to * index + count / 2) / count;
            self.dot(between(from.0, to.0), between(from.1, to.1));
        }
    }

    fn dot(&mut self, x: usize, y: usize) {
        self.cells[y / 4 * self.columns + x / 2] |= DOTS[x % 2][y % 4];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::curves::{panels, tests::example};

    #[test]
    fn a_run_is_drawn_as_reviewed() {
        let look = Look { width: 60, colors: false };
        insta::assert_snapshot!(draw("team/spam", &panels(&example()), look));
    }

    #[test]
    fn no_row_is_wider_than_the_terminal() {
        for width in [40, 80, 200] {
            let text = draw("x", &panels(&example()), Look { width, colors: false });
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width.max(60), "{widest} of {width}:\n{text}");
        }
    }

    #[test]
    fn a_falling_line_falls() {
        let mut grid = Grid { columns: 2, cells: vec![0; 2 * HEIGHT] };
        let line = Line { name: "x", points: vec![(0.0, 1.0), (1.0, 0.0)] };
        let span = Span { low: 0.0, high: 1.0 };
        grid.line(&line, span, span);
        assert_eq!(grid.cells[0] & DOTS[0][0], DOTS[0][0], "top left");
        assert_eq!(grid.cells[1], 0, "top right");
        assert_eq!(grid.cells[2 * HEIGHT - 1] & DOTS[1][3], DOTS[1][3], "bottom right");
    }
}
