//go:build integration

package testenv_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// through returns a client that tries everything once.
func through(t *testing.T, p *testenv.FaultProxy, server *testenv.S3Server) *s3.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Pool(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(fmt.Sprintf("https://%s:%d", p.Host, p.Port)),
		Region:       server.Region, UsePathStyle: true, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
		HTTPClient:  &http.Client{Transport: transport},
	})
}

func TestFaultProxy(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	if err := server.CreateBucket(t.Context(), "bucket"); err != nil {
		t.Fatal(err)
	}
	p := testenv.NewFaultProxy(t, server, 1)
	p.StallFor = time.Millisecond
	client := through(t, p, server)
	bucket, key := aws.String("bucket"), aws.String("a b/ü%+")
	data := bytes.Repeat([]byte("0123456789"), 20_000)
	put := func() error {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: key, Body: bytes.NewReader(data)})
		return err
	}
	get := func() error {
		out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: bucket, Key: key})
		if err != nil {
			return err
		}
		defer func() { _ = out.Body.Close() }()
		got, err := io.ReadAll(out.Body)
		if err == nil && !bytes.Equal(got, data) {
			t.Errorf("got %d other bytes", len(got))
		}
		return err
	}
	list := func() (int, error) {
		out, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: bucket})
		if err != nil {
			return 0, err
		}
		return len(out.Contents), nil
	}
	if n, err := list(); err != nil || n != 0 {
		t.Fatalf("%d objects (err %v)", n, err)
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	for _, f := range testenv.Faults() {
		p.Inject(1, f)
		putErr, getErr := put(), get()
		n, listErr := list()
		fails := map[testenv.Fault][3]bool{ // put, get, list
			testenv.FaultInternal: {true, true, true}, testenv.FaultSlowDown: {true, true, true},
			testenv.FaultResetRequest: {true, true, true}, testenv.FaultLostAnswer: {true, true, true},
			testenv.FaultResetResponse: {false, true, true}, testenv.FaultTruncate: {false, true, true},
		}[f]
		if got := [3]bool{putErr != nil, getErr != nil, listErr != nil}; got != fails {
			t.Errorf("%s: put %v, get %v, list %v", f, putErr, getErr, listErr)
		}
		for tries := 0; f == testenv.FaultStaleList && n != 0; tries++ {
			if n, _ = list(); tries == 100 {
				t.Fatal("the first listing never comes again")
			}
		}
		if p.Injected()[f] == 0 {
			t.Errorf("%s was not counted", f)
		}
	}
	p.Inject(0)
	if err := p.NewAuthority(); err != nil {
		t.Fatal(err)
	}
	if err := put(); err == nil {
		t.Error("a certificate of a new authority is trusted")
	}
	client = through(t, p, server)
	if err := put(); err != nil {
		t.Error(err)
	}
	if p.Requests() == 0 || p.Received() < int64(len(data)) || p.Sent() < int64(len(data)) {
		t.Errorf("%d requests, %d bytes up, %d down", p.Requests(), p.Received(), p.Sent())
	}
}
