//! The listener's own certificate.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::config::TlsFiles;

/// The certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or has nothing of the kind in PEM.
    #[error(
        "{key} = {path:?} can't be used: {reason}: write the certificate or key there in PEM, readable for this user"
    )]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        reason: String,
    },
    /// The key doesn't fit the certificate, or is of an unknown kind.
    #[error("webhooks.tls_certificate_file and webhooks.tls_key_file can't be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// Reads a certificate and its key.
pub(super) fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |key, path: &PathBuf| {
        let path = path.clone();
        move |error: rustls::pki_types::pem::Error| TlsError::File { key, path, reason: error.to_string() }
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain = chain.map_err(failed("webhooks.tls_certificate_file", &files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(failed("webhooks.tls_key_file", &files.key))?;
    let builder = ServerConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
