package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// MinIO starts the second reference server on a free loopback port for one test.
// It is a program of its own (AGPL) that nothing of ours links.
func MinIO(tb testing.TB) *S3Server {
	tb.Helper()
	server, err := StartMinIO(context.WithoutCancel(tb.Context()), S3Config{Dir: tb.TempDir()})
	if err != nil {
		tb.Fatalf("start MinIO: %v", err)
	}
	tb.Cleanup(server.Stop)
	return server
}

// StartMinIO is StartS3 with MinIO.
func StartMinIO(ctx context.Context, cfg S3Config) (*S3Server, error) {
	return startOnFreePort(ctx, cfg, startMinIOOnce)
}

func startMinIOOnce(ctx context.Context, cfg S3Config) (*S3Server, error) {
	path, err := FindTool("minio")
	if err != nil {
		return nil, err
	}
	server, err := newS3Server(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Plain {
		return nil, errors.New("start MinIO: it speaks TLS only")
	}
	if err := server.writeCertificate(cfg); err != nil {
		return nil, err
	}
	certs := filepath.Join(cfg.Dir, "certs")
	// CAs is read at the start, and its absence is an error line.
	if err := errors.Join(os.MkdirAll(filepath.Join(certs, "CAs"), 0o700), os.MkdirAll(server.Dir, 0o700)); err != nil {
		return nil, fmt.Errorf("start MinIO: %w", err)
	}
	for from, to := range map[string]string{"server.pem": "public.crt", "server.key": "private.key"} {
		if err := os.Rename(filepath.Join(cfg.Dir, from), filepath.Join(certs, to)); err != nil {
			return nil, fmt.Errorf("start MinIO: %w", err)
		}
	}
	server.health = server.Endpoint() + "/minio/health/ready"
	args := []string{"server", "--quiet", "--certs-dir", certs, "--address", server.address(), server.Dir}
	server.proc, err = startProcess(ctx, cfg.Log, path, args, func(cmd *exec.Cmd) {
		cmd.Dir = cfg.Dir
		cmd.Env = []string{
			"MINIO_ROOT_USER=" + server.AccessKey, "MINIO_ROOT_PASSWORD=" + server.SecretKey,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CALLHOME_ENABLE=off", "HOME=" + cfg.Dir,
		}
	})
	if err != nil {
		return nil, err
	}
	if err := server.proc.wait(ctx, s3Ready, server.probe); err != nil {
		return nil, err
	}
	return server, nil
}
