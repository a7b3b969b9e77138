//! Tests of the client against a namespace in this process ([`namespace`]), with answers that come late on
//! purpose. Files are short enough to be stored inline, so no node with shares is needed.

mod files;
mod leases;
mod locks;
mod namespace;
