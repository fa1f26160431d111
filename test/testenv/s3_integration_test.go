//go:build integration

package testenv_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

func TestS3RoundTripOverTLS(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	if err := server.CreateBucket(t.Context(), "device-1"); err != nil {
		t.Fatal(err)
	}
	client := server.Client()
	for key, want := range map[string][]byte{
		"empty":            {},
		"a/b/nested name":  []byte("hello"),
		"ünïcode/%41+&=.x": bytes.Repeat([]byte{0xff, 0}, 6<<20),
	} {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String("device-1"), Key: aws.String(key), Body: bytes.NewReader(want),
		})
		if err != nil {
			t.Fatalf("put %q: %v", key, err)
		}
		got, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("device-1"), Key: aws.String(key)})
		if err != nil {
			t.Fatalf("get %q: %v", key, err)
		}
		body, err := io.ReadAll(got.Body)
		_ = got.Body.Close()
		if err != nil || !bytes.Equal(body, want) {
			t.Errorf("get %q: %d bytes and %v, want the %d bytes that were put", key, len(body), err, len(want))
		}
		stored, err := os.ReadFile(filepath.Join(server.Dir, "device-1", key))
		if err != nil || !bytes.Equal(stored, want) {
			t.Errorf("file of %q: %d bytes and %v, want %d bytes", key, len(stored), err, len(want))
		}
	}
}

func TestS3RefusesForeignSecret(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	server.SecretKey = "wrong"
	if err := server.CreateBucket(t.Context(), "mine"); err == nil {
		t.Error("bucket made with a wrong secret")
	}
}

func TestStartS3KeepsItsDataAndPort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := testenv.StartS3(t.Context(), testenv.S3Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Stop()
	if err := first.CreateBucket(t.Context(), "kept"); err != nil {
		t.Fatal(err)
	}
	first.Stop()
	second, err := testenv.StartS3(t.Context(), testenv.S3Config{Dir: dir, Port: first.Port})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	if _, err := second.Client().HeadBucket(t.Context(), &s3.HeadBucketInput{Bucket: aws.String("kept")}); err != nil {
		t.Errorf("bucket after a restart: %v", err)
	}
}

func TestStartS3EndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server, err := testenv.StartS3(ctx, testenv.S3Config{Dir: t.TempDir()})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	cancel()
	server.Stop()
	addr := net.JoinHostPort(server.Host, strconv.Itoa(server.Port))
	if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		_ = c.Close()
		t.Errorf("something still listens on %s", addr)
	}
}

func TestStartS3SaysWhyItCouldNot(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	server, err := testenv.StartS3(t.Context(), testenv.S3Config{
		Dir: t.TempDir(), Port: taken.Addr().(*net.TCPAddr).Port,
	})
	if err == nil {
		server.Stop()
		t.Fatal("no error for a port in use")
	}
	if !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %q does not tell the server's own reason", err)
	}
}
