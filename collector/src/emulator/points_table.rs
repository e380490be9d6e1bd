//! Where the probe points are in the executable file: a uprobe is placed at a file offset, so that a stripped binary
//! works.

use std::path::PathBuf;

use super::Problem;
use super::points::{self, NOP5, PointAddress};
use super::protocol::Point;

/// A mapping of the executable: a line of `/proc/self/maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    file_offset: u64,
    inode: u64,
}

/// `start-end perms offset device inode path`.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let offset = fields.nth(1)?;
    let inode = fields.nth(1)?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        file_offset: u64::from_str_radix(offset, 16).ok()?,
        inode: inode.parse().ok()?,
    })
}

fn file_offset(maps: &[Mapping], address: u64) -> Option<u64> {
    let mapping = maps
        .iter()
        .find(|m| m.inode != 0 && (m.start..m.end).contains(&address))?;
    Some(address - mapping.start + mapping.file_offset)
}

/// The executable and its points.
pub fn read() -> Result<(PathBuf, Vec<Point>), Problem> {
    let unreadable = |path: &str, error: &std::io::Error| {
        Problem::new(
            format!("{path} could not be read"),
            error.to_string(),
            "run where /proc is mounted",
        )
    };
    let executable =
        std::fs::read_link("/proc/self/exe").map_err(|e| unreadable("/proc/self/exe", &e))?;
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|e| unreadable("/proc/self/maps", &e))?;
    let maps: Vec<Mapping> = maps.lines().filter_map(parse).collect();
    let points = points::all()
        .into_iter()
        .map(|point| {
            let file_offset = file_offset(&maps, point.address as u64).ok_or_else(|| {
                Problem::new(
                    format!("probe point {} is not in a file", point.symbol),
                    format!("/proc/self/maps has no mapping for {:#x}", point.address),
                    "run the program from a file",
                )
            })?;
            Ok(Point {
                module: point.module.into(),
                symbol: point.symbol.into(),
                file_offset,
                nop5: starts_with_nop5(point),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok((executable, points))
}

/// The point's first instruction is the nop that can be replaced without a breakpoint.
fn starts_with_nop5(point: PointAddress) -> bool {
    if !cfg!(target_arch = "x86_64") {
        return false;
    }
    // SAFETY: the address is that of a function of this program, which is longer than five bytes on x86-64: the nop is
    // followed by a jump. Code is readable there.
    let bytes = unsafe { std::slice::from_raw_parts(point.address as *const u8, NOP5.len()) };
    bytes == NOP5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maps_line_is_parsed() {
        let line =
            "55d0c0a00000-55d0c0b00000 r-xp 0001f000 fe:00 1234                 /usr/bin/apscope";
        let mapping = parse(line).unwrap();
        assert_eq!(
            mapping,
            Mapping {
                start: 0x55d0_c0a0_0000,
                end: 0x55d0_c0b0_0000,
                file_offset: 0x1f000,
                inode: 1234
            }
        );
        assert_eq!(file_offset(&[mapping], 0x55d0_c0a0_0010), Some(0x1f010));
        assert_eq!(file_offset(&[mapping], 0x55d0_c0b0_0000), None);
        assert_eq!(parse("no line"), None);
    }

    #[test]
    fn every_point_is_found_in_the_executable() {
        let (executable, points) = read().unwrap();
        let file = std::fs::read(executable).unwrap();
        assert_eq!(points.len(), points::all().len());
        for point in &points {
            let at = usize::try_from(point.file_offset).unwrap();
            assert!(at < file.len(), "{point:?}");
            if cfg!(target_arch = "x86_64") {
                assert!(point.nop5, "{point:?}");
                assert_eq!(file[at..at + 5], NOP5, "{point:?}");
                assert_eq!(point.file_offset % 16, 0, "{point:?}");
            }
        }
    }
}
