//! Intel's ISA-L, twice: version 2.31 built from source and linked, and the system's library, loaded at run
//! time.

use anyhow::Context;
use std::ffi::c_int;

// Links libisal.
use isal as _;

type Init = unsafe extern "C" fn(k: c_int, rows: c_int, matrix: *const u8, tables: *mut u8);
type Encode = unsafe extern "C" fn(
    len: c_int,
    k: c_int,
    rows: c_int,
    tables: *const u8,
    data: *const *const u8,
    coding: *const *mut u8,
);
type Generate = unsafe extern "C" fn(matrix: *mut u8, n: c_int, k: c_int);
type Invert = unsafe extern "C" fn(matrix: *mut u8, inverse: *mut u8, k: c_int) -> c_int;

unsafe extern "C" {
    fn ec_init_tables(k: c_int, rows: c_int, matrix: *const u8, tables: *mut u8);
    fn ec_encode_data(
        len: c_int,
        k: c_int,
        rows: c_int,
        tables: *const u8,
        data: *const *const u8,
        coding: *const *mut u8,
    );
    fn gf_gen_cauchy1_matrix(matrix: *mut u8, n: c_int, k: c_int);
    fn gf_invert_matrix(matrix: *mut u8, inverse: *mut u8, k: c_int) -> c_int;
}

/// The functions of one of the two libraries.
#[derive(Clone, Copy)]
pub struct Library {
    init: Init,
    encode: Encode,
    generate: Generate,
    invert: Invert,
}

impl Library {
    /// The library built from source.
    pub fn linked() -> Library {
        Library {
            init: ec_init_tables,
            encode: ec_encode_data,
            generate: gf_gen_cauchy1_matrix,
            invert: gf_invert_matrix,
        }
    }

    /// The system's library. Fails when there is none.
    pub fn of_the_system() -> anyhow::Result<Library> {
        // SAFETY: the library has no initialisers, and its functions have the types of its header.
        unsafe {
            let library =
                libloading::Library::new("libisal.so.2").context("libisal.so.2 (Debian: libisal2)")?;
            let library: &'static libloading::Library = Box::leak(Box::new(library));
            Ok(Library {
                init: *library.get(b"ec_init_tables\0")?,
                encode: *library.get(b"ec_encode_data\0")?,
                generate: *library.get(b"gf_gen_cauchy1_matrix\0")?,
                invert: *library.get(b"gf_invert_matrix\0")?,
            })
        }
    }

    /// Returns the work that encodes k data shares into m parity shares.
    pub fn encoder(self, k: usize, m: usize) -> Work {
        let matrix = self.matrix(k, m);
        self.work(&matrix[k * k..], (0..k).collect(), (k..k + m).collect())
    }

    /// Returns the work that rebuilds the first `lost` data shares from the next k shares.
    pub fn decoder(self, k: usize, m: usize, lost: usize) -> Work {
        let matrix = self.matrix(k, m);
        let sources: Vec<usize> = (lost..lost + k).collect();
        let mut used: Vec<u8> = sources.iter().flat_map(|row| matrix[row * k..][..k].to_vec()).collect();
        let mut inverse = vec![0; k * k];
        // SAFETY: both are k by k.
        let failed = unsafe { (self.invert)(used.as_mut_ptr(), inverse.as_mut_ptr(), k as c_int) };
        assert_eq!(failed, 0, "a Cauchy matrix has an inverse");
        self.work(&inverse[..lost * k], sources, (0..lost).collect())
    }

    fn matrix(self, k: usize, m: usize) -> Vec<u8> {
        let mut matrix = vec![0; (k + m) * k];
        // SAFETY: the matrix is (k + m) by k.
        unsafe { (self.generate)(matrix.as_mut_ptr(), (k + m) as c_int, k as c_int) };
        matrix
    }

    fn work(self, rows: &[u8], sources: Vec<usize>, targets: Vec<usize>) -> Work {
        let k = sources.len();
        let mut tables = vec![0; 32 * k * targets.len()];
        // SAFETY: the tables have 32 bytes for each cell of the matrix, as the header requires.
        unsafe { (self.init)(k as c_int, targets.len() as c_int, rows.as_ptr(), tables.as_mut_ptr()) };
        Work { encode: self.encode, tables, sources, targets }
    }
}

/// Computes some shares of a block from others.
pub struct Work {
    encode: Encode,
    tables: Vec<u8>,
    sources: Vec<usize>,
    targets: Vec<usize>,
}

impl Work {
    pub fn run(&self, shares: &mut [&mut [u8]]) {
        let len = shares[0].len();
        let data: Vec<*const u8> = self.sources.iter().map(|share| shares[*share].as_ptr()).collect();
        let coding: Vec<*mut u8> = self.targets.iter().map(|share| shares[*share].as_mut_ptr()).collect();
        // SAFETY: all shares are `len` long, no source is a target, and the tables come from `init`.
        unsafe {
            let (k, rows) = (self.sources.len() as c_int, self.targets.len() as c_int);
            (self.encode)(len as c_int, k, rows, self.tables.as_ptr(), data.as_ptr(), coding.as_ptr());
        }
    }
}
