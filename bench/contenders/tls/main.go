// Tls is a client that can show a certificate: it asks for a URL on many connections for some time,
// and prints how many answers a second there were.
//
//	tls [-ca ca.pem -cert cert.pem -key key.pem] [-fresh] [-c 32] [-for 2s] URL
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	ca := flag.String("ca", "", "who signed the server's certificate")
	cert := flag.String("cert", "", "our certificate")
	key := flag.String("key", "", "its key")
	fresh := flag.Bool("fresh", false, "a connection a request")
	clients := flag.Int("c", 32, "connections")
	length := flag.Duration("for", 2*time.Second, "how long")
	flag.Parse()

	config := &tls.Config{}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		check(err)
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		check(err)
		config.Certificates = []tls.Certificate{pair}
	}
	var answers int64
	var group sync.WaitGroup
	end := time.Now().Add(*length)
	for i := 0; i < *clients; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			// One for each, so that there are as many connections as it was told.
			client := &http.Client{Transport: &http.Transport{
				TLSClientConfig:   config,
				DisableKeepAlives: *fresh,
			}}
			for time.Now().Before(end) {
				response, err := client.Get(flag.Arg(0))
				check(err)
				_, err = io.Copy(io.Discard, response.Body)
				check(err)
				response.Body.Close()
				if response.StatusCode != http.StatusOK {
					check(fmt.Errorf("status %s", response.Status))
				}
				atomic.AddInt64(&answers, 1)
			}
		}()
	}
	group.Wait()
	fmt.Println(int(float64(answers) / length.Seconds()))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
