//! A picture in 64 bits, of which few differ where two pictures look the same: the DCT hash
//! (pHash; Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions",
//! 3.2.1, which found it to withstand more than hashes of gradients or means).
//!
//! The luma (ITU-R BT.601) of the picture is averaged to 32 by 32 cells, so that its shape does not
//! count, and transformed by DCT-II. Of the 8 by 8 coefficients of the lowest frequencies, those
//! above their median are the ones of the hash, as in Krawetz's description and Python's
//! `imagehash`. Unlike there, a coefficient counts as above only by more than one level of grey,
//! so that the bits of flat pictures are not those of their noise. Pictures of one colour are all
//! alike, and those of few frequencies, such as a plain gradient, are told apart by few bits.

use image::RgbImage;

/// Cells of a side.
const SIDE: usize = 32;
/// Frequencies of a side.
const LOW: usize = 8;
/// By how much a coefficient is above the median, in levels of grey (of 256) times 32: the
/// transform is orthonormal.
const ABOVE: f64 = 1.0;

type Cells = [[f64; SIDE]; SIDE];

/// The hash of pictures. Making it takes 64 thousand multiplications and a look at each pixel.
#[derive(Clone, Debug)]
pub struct PerceptualHash {
    /// Row k: the DCT's basis function of frequency k at each cell.
    basis: [[f64; SIDE]; LOW],
}

impl Default for PerceptualHash {
    fn default() -> Self {
        Self::new()
    }
}

impl PerceptualHash {
    /// Tabulates the transform.
    pub fn new() -> Self {
        let side = SIDE as f64;
        let value = |frequency: usize, cell: usize| {
            let norm = if frequency == 0 { 1.0 / side } else { 2.0 / side };
            let turn = (cell as f64 + 0.5) * frequency as f64 * std::f64::consts::PI / side;
            libm::sqrt(norm) * libm::cos(turn)
        };
        let row = |frequency| std::array::from_fn(|cell| value(frequency, cell));
        Self { basis: std::array::from_fn(row) }
    }

    /// The hash of a picture of at least one pixel; the bit of the lowest frequency is the highest.
    /// The same on all machines.
    pub fn of(&self, picture: &RgbImage) -> u64 {
        let coefficients = self.transform(&cells(picture));
        let mut sorted = coefficients;
        sorted.sort_unstable_by(f64::total_cmp);
        let median = f64::midpoint(sorted[LOW * LOW / 2 - 1], sorted[LOW * LOW / 2]);
        coefficients.iter().fold(0, |hash, value| hash << 1 | u64::from(value - median > ABOVE))
    }

    /// Coefficients of the lowest frequencies, by row.
    fn transform(&self, cells: &Cells) -> [f64; LOW * LOW] {
        let dot =
            |a: &[f64; SIDE], b: &[f64; SIDE]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let across: [[f64; SIDE]; LOW] =
            std::array::from_fn(|u| std::array::from_fn(|row| dot(&self.basis[u], &cells[row])));
        std::array::from_fn(|at| dot(&self.basis[at / LOW], &across[at % LOW]))
    }
}

/// Bits in which two hashes differ.
pub fn distance(a: u64, b: u64) -> u32 {
    (a ^ b).count_ones()
}

/// Mean luma of each cell, from 0 to 255, by row.
fn cells(picture: &RgbImage) -> Cells {
    let width = picture.width() as usize;
    let luma = |[red, green, blue]: &[u8; 3]| {
        f64::from(299 * u32::from(*red) + 587 * u32::from(*green) + 114 * u32::from(*blue)) / 1000.0
    };
    let mut row = Vec::with_capacity(width);
    let mut rows = Vec::with_capacity(picture.height() as usize);
    for pixels in picture.as_raw().chunks_exact(width * 3) {
        row.clear();
        row.extend(pixels.as_chunks::<3>().0.iter().map(luma));
        rows.push(means(&row));
    }
    let mut cells = [[0.0; SIDE]; SIDE];
    for column in 0..SIDE {
        let down: Vec<f64> = rows.iter().map(|row| row[column]).collect();
        for (cells, mean) in cells.iter_mut().zip(means(&down)) {
            cells[column] = mean;
        }
    }
    cells
}

/// Means of equal parts of a line of values, where a part may begin and end within a value: the
/// integral up to the part's end, less that up to its beginning.
fn means(values: &[f64]) -> [f64; SIDE] {
    let length = values.len();
    let (mut sum, mut at, mut before) = (0.0, 0, 0.0);
    std::array::from_fn(|part| {
        // The part's end is `whole` values and `rest` 32nds of the next.
        let (whole, rest) = ((part + 1) * length / SIDE, (part + 1) * length % SIDE);
        sum += values[at..whole].iter().sum::<f64>();
        at = whole;
        let next = values.get(whole).map_or(0.0, |value| value * rest as f64 / SIDE as f64);
        let mean = (sum + next - before) * SIDE as f64 / length as f64;
        before = sum + next;
        mean
    })
}

#[cfg(test)]
mod tests;
