//! Sources that are no rows yet: exports of tools, trees of pictures, files of scanners. Each deals
//! its rows in a fixed order, one at a time, so that memory does not grow with the source.

pub mod dicom;
