//! The number of XORs in the schedule of each code, compared with the plain number and held at its current
//! value.

use rain_codec::ShareSet;
use rain_codec::codes::array::XorArray;
use rain_codec::codes::{bcode, cauchy, evenodd, rdp, star, xcode};
use rain_codec::geometry::Geometry;

struct Row {
    code: String,
    array: XorArray,
    /// XORs without shared sums: k-1 for each parity packet of a horizontal code. RDP reaches it (Corbett et
    /// al. 2004, section 6). X-Code and B-Code reach their own (each data packet in two parities). EVENODD
    /// takes p-2 more for the adjuster and one more for each diagonal: 35 for p = 5 (Blaum et al. 1995,
    /// section IV). Dense matrices share sums and can need fewer.
    plain: usize,
    /// XORs of encoding, and of decoding the first m shares, as the solver finds them.
    encode: usize,
    decode: usize,
}

fn row(code: &str, k: usize, geometry: Geometry, encode: usize, decode: usize) -> Row {
    let parity_packets = geometry.parity.len();
    let data_packets = geometry.packets() - parity_packets;
    // In vertical codes each data packet is in m of the parity packets.
    let m = geometry.shares - k;
    let plain = m * data_packets - parity_packets;
    Row {
        code: format!("{code} {k}+{m}"),
        array: XorArray::new("counted", k, geometry),
        plain,
        encode,
        decode,
    }
}

#[test]
fn schedules_take_as_few_xors_as_they_did() {
    let rows = [
        row("rdp", 4, rdp::geometry(5, 4), 24, 24),
        row("rdp", 3, rdp::geometry(5, 3), 17, 17),
        row("rdp", 16, rdp::geometry(17, 16), 480, 480),
        row("evenodd", 5, evenodd::geometry(5, 5), 35, 38),
        row("evenodd", 4, evenodd::geometry(5, 4), 27, 30),
        row("star", 5, star::geometry(5, 5), 54, 61),
        row("xcode", 3, xcode::geometry(5), 20, 20),
        row("xcode", 5, xcode::geometry(7), 56, 56),
        row("bcode", 4, bcode::geometry(6).expect("there is one"), 18, 18),
        row("bcode", 5, bcode::geometry(7).expect("there is one"), 24, 24),
        row("cauchy", 4, cauchy::geometry(4, 2), 25, 30),
        row("cauchy", 6, cauchy::geometry(6, 3), 57, 73),
        row("cauchy", 10, cauchy::geometry(10, 4), 134, 155),
    ];
    let mut said = format!("{:14} {:>6} {:>7} {:>7}\n", "code", "plain", "encode", "decode");
    let mut wrong = Vec::new();
    for Row { code, array, plain, encode, decode } in &rows {
        let n = rain_codec::Code::n(array);
        let lost = ShareSet::all(rain_codec::Code::m(array));
        let decoding = array.decode_schedule(ShareSet::all(n).minus(lost), lost).expect("m lost");
        let found = (array.encode_schedule().lean().xors(), decoding.lean().xors());
        said += &format!("{code:14} {plain:>6} {:>7} {:>7}\n", found.0, found.1);
        if found != (*encode, *decode) {
            wrong.push(format!("{code}: {found:?}"));
        }
    }
    eprintln!("{said}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
