//! SVG pictures as PNG, which every viewer and chat shows.
//!
//! A PNG carries the checksum of the SVG that it was drawn from, in a text chunk: whether it is stale is seen without
//! drawing it again, which would need the same font.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::failure::Failure;

/// The font that the SVG files name first.
const FONT: &str = "DejaVu Sans Mono";
/// Pixels for each of the SVG's.
const SCALE: f32 = 1.0;
/// Keyword of the text chunk with the checksum.
const KEYWORD: &str = "drawn from the SVG with CRC-32";

/// Draws a PNG beside each SVG of a folder; the same SVG gives the same PNG, byte for byte.
pub fn all(folder: &Path, fonts: &Path) -> Result<(), Failure> {
    let fonts = load(fonts)?;
    for path in pictures(folder)? {
        let svg = fs::read(&path).map_err(|e| Failure::file("reading", &path, &e))?;
        let png = draw(&svg, &fonts).map_err(|cause| {
            Failure::new(format!("drawing {} as PNG", path.display())).cause(cause)
        })?;
        let target = path.with_extension("png");
        fs::write(&target, png).map_err(|e| Failure::file("writing", &target, &e))?;
    }
    Ok(())
}

fn load(folder: &Path) -> Result<Arc<fontdb::Database>, Failure> {
    let missing = |cause: String| {
        Failure::new("the pictures cannot be drawn as PNG")
            .cause(cause)
            .hint("apt-get install fonts-dejavu-core, or --fonts DIR")
    };
    let mut fonts = fontdb::Database::new();
    for file in ["DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"] {
        let path = folder.join(file);
        let font = fs::read(&path).map_err(|e| missing(format!("{}: {e}", path.display())))?;
        fonts.load_font_data(font);
    }
    let is_it = |face: &fontdb::FaceInfo| face.families.iter().any(|(name, _)| name == FONT);
    if fonts.faces().filter(|face| is_it(face)).count() != 2 {
        return Err(missing(format!(
            "the files in {} are not \"{FONT}\"",
            folder.display()
        )));
    }
    fonts.set_monospace_family(FONT);
    Ok(Arc::new(fonts))
}

/// The SVG files of a folder, by name.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|e| Failure::file("reading", folder, &e))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|e| Failure::file("reading", folder, &e))?
            .path();
        if path.extension().is_some_and(|extension| extension == "svg") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn draw(svg: &[u8], fonts: &Arc<fontdb::Database>) -> Result<Vec<u8>, String> {
    let options = Options {
        fontdb: fonts.clone(),
        ..Options::default()
    };
    let tree = Tree::from_data(svg, &options).map_err(|e| e.to_string())?;
    let size = tree.size().to_int_size();
    let scaled = |pixels: u32| (pixels as f32 * SCALE).ceil() as u32;
    let mut pixels = Pixmap::new(scaled(size.width()), scaled(size.height()))
        .ok_or_else(|| "a picture without pixels".to_owned())?;
    let scale = Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    let png = pixels.encode_png().map_err(|e| e.to_string())?;
    Ok(marked(&png, svg))
}

/// Bytes of a PNG before its second chunk: the signature, and the chunk IHDR, which has 13 bytes of data.
const HEAD: usize = 8 + 12 + 13;

/// The PNG with a chunk tEXt behind its first chunk (PNG specification, 11.3.3.2 and 5.3).
fn marked(png: &[u8], svg: &[u8]) -> Vec<u8> {
    let (head, rest) = png.split_at(HEAD.min(png.len()));
    let mut chunk = b"tEXt".to_vec();
    chunk.extend_from_slice(&mark(svg));
    let length = chunk.len() as u32 - 4;
    let mut out = head.to_vec();
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&chunk);
    out.extend_from_slice(&crc32fast::hash(&chunk).to_be_bytes());
    out.extend_from_slice(rest);
    out
}

/// What stands in the chunk.
fn mark(svg: &[u8]) -> Vec<u8> {
    format!("{KEYWORD}\0{:08x}", crc32fast::hash(svg)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(
            crc32fast::hash(b"IEND"),
            0xae42_6082,
            "the last bytes of every PNG"
        );
    }

    /// That the SVG files are what the dashboard draws is tested with the dashboard.
    #[test]
    fn each_picture_of_the_documentation_has_a_png_of_the_same() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures");
        let pictures = pictures(&folder).expect("the folder");
        assert!(!pictures.is_empty());
        for path in pictures {
            let wanted = mark(&fs::read(&path).expect("the SVG"));
            let png = fs::read(path.with_extension("png")).unwrap_or_default();
            assert!(
                png.windows(wanted.len()).any(|part| part == wanted),
                "{} is stale: cargo xtask screenshots",
                path.with_extension("png").display()
            );
        }
    }
}
