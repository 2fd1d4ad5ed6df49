//! What an authority publishes, as it goes over the wire and to the disk.

use serde::{Deserialize, Serialize};

use super::bundle::{BundleError, Bundles, DomainBundle};
use super::pem::{self, PemError};
use crate::spiffe::TrustDomain;

/// One trust domain's roots and revocation lists, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Whose they are.
    pub trust_domain: TrustDomain,
    /// Grows with every change.
    pub revision: u64,
    /// Certificates.
    pub roots: Vec<String>,
    /// Revocation lists: the root's, and one for each intermediate.
    pub lists: Vec<String>,
}

/// Why a publication cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// A text that is not PEM of a certificate or list.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A bundle that breaks the rules.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl Publication {
    /// Read into what [`verify`](super::verify) takes.
    pub fn bundles(&self) -> Result<Bundles, PublicationError> {
        let roots = self.roots.iter().map(|text| pem::certificate(text)).collect::<Result<Vec<_>, _>>()?;
        let lists = self.lists.iter().map(|text| pem::list(text)).collect::<Result<Vec<_>, _>>()?;
        let bundle = DomainBundle::new(&self.trust_domain, &roots, &lists)?;
        Ok(Bundles::new(self.revision, [(self.trust_domain.clone(), bundle)]))
    }
}
