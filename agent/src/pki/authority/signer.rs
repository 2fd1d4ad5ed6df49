//! Keys that sign certificates. They are read from files of 0600, wiped when dropped, and shown by no Debug.

use std::fmt;
use std::path::Path;

use rcgen::{Issuer, KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use super::Error;
use super::state::{Intermediate, State};
use crate::pki::files::{read_private, write_private};
use crate::pki::pem::{certificate, certificates};

/// The largest key file, in bytes: RSA keys of 8192 bits fit.
const MAX_KEY: u64 = 16 * 1024;

/// An authority's private key.
pub(super) struct SecretKey(KeyPair);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for SecretKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for SecretKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl SecretKey {
    /// A fresh P-256 key.
    pub(super) fn generate() -> Result<Self, Error> {
        Ok(Self(KeyPair::generate().map_err(Error::Make)?))
    }

    /// Reads PKCS #8, SEC 1 or PKCS #1 in PEM.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let text = read_private(path, MAX_KEY)?;
        let key = || Error::Key { path: path.to_owned() };
        let der = PrivateKeyDer::from_pem_slice(&text).map_err(|_unreadable| key())?;
        let pair = KeyPair::try_from(&der).map_err(|_unreadable| key())?;
        // The reader's own copy.
        let mut der = der;
        der.zeroize();
        Ok(Self(pair))
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let text = Zeroizing::new(self.0.serialize_pem());
        Ok(write_private(path, text.as_bytes())?)
    }
}

/// A certificate that signs, with its key.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, SecretKey>,
    /// Itself, and what stands between it and the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl Signer {
    /// The certificate must be this key's.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: SecretKey,
        path: &Path,
    ) -> Result<Self, Error> {
        let certificate = chain.first().ok_or(Error::NoSigner)?;
        let parsed = crate::pki::certificate::parse(certificate, crate::pki::Position(1))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(Error::OtherKey { path: path.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_der(certificate, key).map_err(Error::Make)?;
        Ok(Self { issuer, chain })
    }

    pub(super) fn of_intermediate(directory: &Path, of: &Intermediate) -> Result<Self, Error> {
        let path = key_path(directory, &of.serial);
        let mut chain = vec![certificate(&of.certificate)?];
        for above in &of.above {
            chain.push(certificate(above)?);
        }
        Self::new(chain, SecretKey::read(&path)?, &path)
    }

    /// The root, when its key is at hand at `path`, or else where the state says.
    pub(super) fn of_root(directory: &Path, state: &State, path: Option<&Path>) -> Result<Self, Error> {
        let path = directory.join(path.unwrap_or(&state.root_key));
        let key = SecretKey::read(&path).map_err(|error| match error {
            Error::File(error) if error.is_missing() => Error::NoRootKey { path: path.clone() },
            other => other,
        })?;
        let root = state.roots.first().ok_or(Error::NoSigner)?;
        Self::new(certificates(root.certificate.as_bytes())?, key, &path)
    }
}

/// Where the key of an intermediate is. Serials are hex of our own making or checked to be so.
pub(super) fn key_path(directory: &Path, serial: &str) -> std::path::PathBuf {
    directory.join(format!("intermediate-{serial}.key"))
}
