//! The other side of the comparison.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use waxseal::pki::provider;

use crate::{DOMAIN, runtime};

/// Handshakes at a time, which is also what an agent allows itself towards another one.
const AT_ONCE: u32 = 16;

/// rustls as its documentation shows it, with certificates of a root and an intermediate.
pub(crate) struct Raw {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Raw {
    pub(crate) fn new() -> Result<Self> {
        let authority = |name: &str| -> Result<(CertificateParams, KeyPair)> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            Ok((params, KeyPair::generate()?))
        };
        let (root, root_key) = authority("root")?;
        let mut roots = RootCertStore::empty();
        roots.add(root.self_signed(&root_key)?.der().clone())?;
        let (middle, middle_key) = authority("intermediate")?;
        let root = Issuer::new(root, root_key);
        let signed = middle.signed_by(&middle_key, &root)?.der().clone();
        let middle = Issuer::new(middle, middle_key);
        let leaf = || -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
            let key = KeyPair::generate()?;
            let leaf = CertificateParams::new(vec![DOMAIN.to_owned()])?.signed_by(&key, &middle)?;
            let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
            Ok((vec![leaf.der().clone(), signed.clone()], der))
        };
        let roots = Arc::new(roots);
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
                .build()?;
        let (chain, key) = leaf()?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.send_tls13_tickets = 0;
        let (chain, key) = leaf()?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// Handshakes a second, each with a byte from the server, without which a client of TLS 1.3 knows nothing.
    pub(crate) fn run(&self, count: u32) -> Result<f64> {
        let runtime = runtime()?;
        let took = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let to = listener.local_addr()?;
            let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        if let Ok(mut stream) = acceptor.accept(stream).await {
                            let _closed = stream.write_all(&[1]).await;
                            let _closed = stream.shutdown().await;
                        }
                    });
                }
            });
            let start = Instant::now();
            let tasks: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    tokio::spawn(some(TlsConnector::from(Arc::clone(&self.client)), to, count / AT_ONCE))
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(start.elapsed())
        })?;
        runtime.shutdown_background();
        Ok(f64::from(count / AT_ONCE * AT_ONCE) / took.as_secs_f64())
    }
}

async fn some(connector: TlsConnector, to: SocketAddr, count: u32) -> Result<()> {
    for _ in 0..count {
        let stream = TcpStream::connect(to).await?;
        let mut stream = connector.connect(ServerName::try_from(DOMAIN)?, stream).await?;
        stream.read_u8().await?;
    }
    Ok(())
}
