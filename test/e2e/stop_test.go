//go:build device

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/test/site"
)

// What a workload wrote a moment before the agent is stopped arrives, and the
// workload goes on.
func TestStopSendsWhatWasWrittenLast(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.workload("courier", "args: [serve, '8080']", syncPaths))
	id := r.running("courier", "app")
	r.write("out/first", "1")
	r.stored("from-device/first")
	for i, stop := range []string{"stop", "restart"} {
		key := fmt.Sprintf("from-device/last%d", i)
		r.write(fmt.Sprintf("out/last%d", i), "2")
		start := time.Now()
		_, err := r.edge.Run(r.ctx, "systemctl", stop, r.edge.Service())
		must(t, err)
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("%s took %v", stop, took)
		}
		if stop == "stop" {
			if _, err := r.head(key); err != nil {
				t.Errorf("after the stop: %v", err)
			}
			_, err = r.edge.Run(r.ctx, "systemctl", "start", r.edge.Service())
			must(t, err)
			r.write("out/between", "3")
			r.stored("from-device/between") // the last cycle works
			continue
		}
		r.stored(key)
	}
	if now := r.running("courier", "app"); now != id {
		t.Errorf("container %s is %s now", id, now)
	}
}

func (r *rig) head(key string) (*s3.HeadObjectOutput, error) {
	return r.site.S3.Client().HeadObject(r.ctx, &s3.HeadObjectInput{Bucket: aws.String(r.site.Bucket), Key: aws.String(key)})
}

// stored waits until the bucket has an object.
func (r *rig) stored(key string) {
	r.Helper()
	r.until(key+" is in the bucket", func() error {
		_, err := r.head(key)
		return err
	})
}
