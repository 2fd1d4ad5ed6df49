//! From the agent's configuration to its certificates.

use crate::config::{Ca, Config};
use crate::pki::{Credentials, Options, Source, StartError};

/// Opens, makes or joins the authority that the configuration names.
pub(in crate::node) async fn credentials(config: &Config) -> Result<Credentials, StartError> {
    let source = match &config.ca {
        Ca::Own => Source::Own,
        Ca::Server(address) => Source::Server { address: address.clone(), token: config.join_token.clone() },
        Ca::Files(directory) => Source::Files(directory.clone()),
    };
    let options = Options {
        source,
        trust_domain: config.trust_domain.clone(),
        node: config.node.clone(),
        state: config.state.clone(),
        leaf_lifetime: config.leaf_lifetime,
    };
    Credentials::start(&options).await
}
