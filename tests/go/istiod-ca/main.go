// Command istiod-ca is what istiod does with the Secret cacerts, by istiod's own packages: it loads the four files of a folder as a running istiod does,
// which verifies them, and signs a certificate for a workload with them.
//
//	istiod-ca --cacerts DIR --id spiffe://cluster.local/ns/shop/sa/cart --ttl 24h --out DIR
//
// Into the folder --out go the answer that an agent would get, as the tests' samples have it: cert-chain.pem (everything but its last element),
// root-cert.pem (the last element) and id.
package main

import (
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"istio.io/istio/security/pkg/pki/util"
)

func main() {
	cacerts := flag.String("cacerts", "", "`DIR` with the files of the Secret")
	id := flag.String("id", "", "the SPIFFE ID of the workload")
	ttl := flag.Duration("ttl", 24*time.Hour, "how long its certificate lives")
	out := flag.String("out", "", "`DIR` for the answer")
	flag.Parse()
	if *cacerts == "" || *id == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*cacerts, *id, *ttl, *out); err != nil {
		fmt.Fprintln(os.Stderr, "istiod-ca:", err)
		os.Exit(1)
	}
}

func run(cacerts, id string, ttl time.Duration, out string) error {
	file := func(name string) string { return filepath.Join(cacerts, name) }
	// As istiod's NewPluggedCertIstioCAOptions does.
	bundle, err := util.NewVerifiedKeyCertBundleFromFile(
		file("ca-cert.pem"), file("ca-key.pem"), []string{file("cert-chain.pem")}, file("root-cert.pem"), "")
	if err != nil {
		return err
	}
	authority, key, chain, roots := bundle.GetAll()
	if !authority.IsCA {
		return fmt.Errorf("%s is no CA", authority.Subject)
	}
	// istiod shows when its CA ends by the first certificate of the chain.
	ends, err := bundle.ExtractCACertExpiryTimestamp()
	if err != nil {
		return err
	}
	if !ends.Equal(authority.NotAfter) {
		return fmt.Errorf("the chain begins with something that ends at %s, and not with the CA, which ends at %s", ends, authority.NotAfter)
	}
	// Its own serving certificate has a key of the CA's kind.
	if curve, err := util.GetEllipticCurve(key); err != nil {
		return err
	} else {
		fmt.Println("key", curve.Params().Name)
	}

	// An agent's request, and istiod's CreateCertificate.
	requestPEM, _, err := util.GenCSR(util.CertOptions{RSAKeySize: 2048})
	if err != nil {
		return err
	}
	request, err := util.ParsePemEncodedCSR(requestPEM)
	if err != nil {
		return err
	}
	leaf, err := util.GenCertFromCSR(request, authority, request.PublicKey, *key, []string{id}, ttl, false)
	if err != nil {
		return err
	}
	answer := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})
	for _, each := range util.PemCertBytestoString(chain) {
		answer = append(answer, each+"\n"...)
	}
	for name, content := range map[string][]byte{"cert-chain.pem": answer, "root-cert.pem": roots, "id": []byte(id)} {
		if err := os.WriteFile(filepath.Join(out, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
