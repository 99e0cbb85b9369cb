package servicetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// RedisTLS starts a Redis that listens with TLS only, for this test alone. Its certificate is for 127.0.0.1 and
// localhost, and signs itself.
func RedisTLS(t testing.TB) *RedisServer {
	t.Helper()
	return redisFor(t, func(s *RedisServer) error {
		s.options.Settings = map[string]string{"save": "", "appendonly": "no"}
		return s.useTLS()
	})
}

// useTLS makes a certificate, unless the server is to use another's, and adds it to the settings.
func (s *RedisServer) useTLS() (err error) {
	if s.certificate == "" {
		s.certificate = filepath.Join(s.Dir, "certificate.pem")
		s.clientTLS, err = writeCertificate(s.certificate, keyBeside(s.certificate))
	}
	settings := s.options.Settings
	settings["tls-cert-file"], settings["tls-key-file"] = s.certificate, keyBeside(s.certificate)
	settings["tls-ca-cert-file"], settings["tls-auth-clients"] = s.certificate, "no"
	return err
}

func keyBeside(certificate string) string { return filepath.Join(filepath.Dir(certificate), "key.pem") }

// RedisSocket starts a Redis that listens on a Unix socket only, for this test alone.
func RedisSocket(t testing.TB) *RedisServer {
	t.Helper()
	return redisFor(t, func(s *RedisServer) error {
		s.socket = filepath.Join(s.Dir, "redis.sock")
		s.options.Settings = map[string]string{"save": "", "appendonly": "no", "unixsocket": s.socket}
		return nil
	})
}

// CAFile is the path of the certificate that verifies a server with TLS, in PEM.
func (s *RedisServer) CAFile() string { return s.certificate }

// writeCertificate makes a self-signed certificate and returns how a client verifies it. The key is readable for the
// server's user, whose directory it is in.
func writeCertificate(certificateFile, keyFile string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, errors.Join(
		writePEM(certificateFile, "CERTIFICATE", der), writePEM(keyFile, "PRIVATE KEY", secret),
	)
}

func writePEM(file, kind string, der []byte) error {
	return owned(file, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
