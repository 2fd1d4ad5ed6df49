//! TLS 1.3 with [`verify`] on both sides: no resumption, no tickets, no early data, post-quantum hybrid first.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, HandshakeKind,
    OtherError, ProtocolVersion, ServerConfig, SignatureScheme,
};

use super::bundle::Bundles;
use super::refusal::Refusal;
use super::svid::Svid;
use super::trust::Trust;
use super::verify::{Peer, Role, verify};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The one crypto provider; nothing ever takes the process's default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Where a verifier takes its beliefs from.
pub(super) trait Judge: Send + Sync {
    fn judge(&self, chain: &[CertificateDer<'_>], role: Role, now: SystemTime) -> Result<(), Refusal>;
}

impl Judge for Trust {
    fn judge(&self, chain: &[CertificateDer<'_>], role: Role, now: SystemTime) -> Result<(), Refusal> {
        verify(&self.load(), chain, role, now).map(drop)
    }
}

/// [`verify`] as rustls calls it, for both directions.
pub(super) struct Verifier<J> {
    judge: J,
    /// Only for servers: whether a client without a certificate may come in at all.
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<J> fmt::Debug for Verifier<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("mandatory", &self.mandatory).finish_non_exhaustive()
    }
}

impl<J: Judge> Verifier<J> {
    pub(super) fn new(judge: J, mandatory: bool) -> Arc<Self> {
        Arc::new(Self { judge, mandatory, algorithms: PROVIDER.signature_verification_algorithms })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(signers).map(|der| CertificateDer::from(der.as_ref())).collect();
        let now = UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        self.judge.judge(&chain, role, now).map_err(tls_error)
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// The refusal travels whole inside rustls's error (see [`refusal_of`]); the peer only learns that it was refused.
fn tls_error(refusal: Refusal) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(refusal))).into()
}

fn no_old_tls() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken".to_owned())
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(leaf, signers, Role::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_old_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl<J: Judge> ClientCertVerifier for Verifier<J> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Who is believed is nobody's business before it has proved who it is.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(leaf, signers, Role::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_old_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A server's side: it demands a certificate of the client, and shows what the resolver picks.
pub fn server_config(
    trust: &Trust,
    resolver: Arc<dyn ResolvesServerCert>,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    server_with(Verifier::new(trust.clone(), true), resolver, alpn)
}

#[expect(
    clippy::expect_used,
    reason = "the provider has suites for TLS 1.3; a test makes both configurations"
)]
pub(super) fn server_with<J: Judge + 'static>(
    verifier: Arc<Verifier<J>>,
    resolver: Arc<dyn ResolvesServerCert>,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// A client's side with its identity. It believes any name that the trust vouches for: the caller compares the peer's
/// SPIFFE ID afterwards, with [`peer_of`].
pub fn client_config(trust: &Trust, svid: &Svid, alpn: &[u8]) -> Arc<ClientConfig> {
    client_with(Verifier::new(trust.clone(), true), Some(svid.certified_key()), alpn)
}

/// Shows the same certificate to whoever asks.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[expect(
    clippy::expect_used,
    reason = "the provider has suites for TLS 1.3; a test makes both configurations"
)]
pub(super) fn client_with<J: Judge + 'static>(
    verifier: Arc<Verifier<J>>,
    key: Option<Arc<CertifiedKey>>,
    alpn: &[u8],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(Always(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// The proof for a finished TLS connection: who is at the other end, which was `role`.
pub fn peer_of(
    connection: &CommonState,
    bundles: &Bundles,
    role: Role,
    now: SystemTime,
) -> Result<Peer, Refusal> {
    let full = matches!(
        connection.handshake_kind(),
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
    );
    let finished = !connection.is_handshaking();
    if !finished || !full || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(Refusal::Handshake);
    }
    verify(bundles, connection.peer_certificates().unwrap_or_default(), role, now)
}

/// The refusal inside an error of rustls, when our verifier made it.
pub fn refusal_of(error: &rustls::Error) -> Option<Refusal> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<Refusal>().cloned()
        }
        _ => None,
    }
}
