package file

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Kinds of the core API that manifests may hold.
const (
	kindConfigMap = "ConfigMap"
	kindSecret    = "Secret"
	kindList      = "List"
	coreVersion   = "v1"
)

// maxListDepth bounds lists within lists; nobody writes even one of those.
const maxListDepth = 3

// objectKey names an object.
type objectKey struct{ kind, namespace, name string }

func (k objectKey) String() string {
	if k.kind == "" {
		return ""
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

// object is one decoded document. value is a pointer to the type of its kind
// and is never changed.
type object struct {
	key   objectKey
	value metav1.Object
	sum   [sha256.Size]byte // of the text
	file  string
	line  int // the first of the document, from 1
}

// brokenDocument is one that cannot be used. Its key is the zero one when the
// text does not even say what it is.
type brokenDocument struct {
	key  objectKey
	line int
	err  error
	// meant is whom a workload is for, as far as that can be read.
	meant *v1alpha1.EdgeWorkload
}

// decodeManifest reads the documents of one manifest, each by itself.
func decodeManifest(file string, data []byte) ([]object, []brokenDocument) {
	d := decoder{file: file}
	for _, doc := range splitDocuments(data) {
		d.document(doc.text, doc.line, 0)
	}
	return d.objects, d.broken
}

type decoder struct {
	file    string
	objects []object
	broken  []brokenDocument
}

func (d *decoder) fail(key objectKey, line int, err error) {
	d.broken = append(d.broken, brokenDocument{key: key, line: line, err: err})
}

// meant reads of a broken workload only whom it is for.
func meant(key objectKey, text []byte) *v1alpha1.EdgeWorkload {
	if key.kind != v1alpha1.KindEdgeWorkload {
		return nil
	}
	var w struct {
		Spec struct {
			Device         string                `json:"device"`
			DeviceSelector *metav1.LabelSelector `json:"deviceSelector"`
		} `json:"spec"`
	}
	if yaml.Unmarshal(text, &w) != nil {
		return nil
	}
	return &v1alpha1.EdgeWorkload{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.namespace, Name: key.name},
		Spec:       v1alpha1.EdgeWorkloadSpec{Device: w.Spec.Device, DeviceSelector: w.Spec.DeviceSelector},
	}
}

func (d *decoder) document(text []byte, line, depth int) {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	var anything any
	if err := yaml.Unmarshal(text, &anything); err != nil {
		d.fail(objectKey{}, line, fmt.Errorf("parse: %w", err))
		return
	}
	if anything == nil {
		return // nothing but comments
	}
	if err := yaml.Unmarshal(text, &head); err != nil {
		d.fail(objectKey{}, line, fmt.Errorf("parse: %w", err))
		return
	}
	if head.Kind == kindList && head.APIVersion == coreVersion {
		d.list(text, line, depth)
		return
	}
	key := objectKey{kind: head.Kind, namespace: head.Metadata.Namespace, name: head.Metadata.Name}
	if key.namespace == "" {
		key.namespace = v1alpha1.DefaultNamespace
	}
	value, err := decodeObject(head.TypeMeta, text)
	if err == nil {
		value.SetNamespace(key.namespace)
		err = validateObject(value)
	}
	if err != nil {
		if key.kind == "" || key.name == "" {
			key = objectKey{}
		}
		d.fail(key, line, err)
		d.broken[len(d.broken)-1].meant = meant(key, text)
		return
	}
	d.objects = append(d.objects, object{key: key, value: value, sum: sha256.Sum256(text), file: d.file, line: line})
}

// list reads the items of what "kubectl get -o yaml" prints.
func (d *decoder) list(text []byte, line, depth int) {
	var list struct {
		Items []any `json:"items"`
	}
	if err := yaml.Unmarshal(text, &list); err != nil {
		d.fail(objectKey{}, line, fmt.Errorf("parse list: %w", err))
		return
	}
	if depth >= maxListDepth {
		d.fail(objectKey{}, line, errors.New("lists within lists within lists"))
		return
	}
	for i, item := range list.Items {
		raw, err := yaml.Marshal(item)
		if err != nil {
			d.fail(objectKey{}, line, fmt.Errorf("parse item %d of the list: %w", i, err))
			continue
		}
		d.document(raw, line, depth+1)
	}
}

// decodeObject reads text as the kind it says it is. Fields that the kind does
// not have are errors: they are typing mistakes.
func decodeObject(meta metav1.TypeMeta, text []byte) (metav1.Object, error) {
	var value metav1.Object
	switch [2]string{meta.APIVersion, meta.Kind} {
	case [2]string{v1alpha1.APIVersion, v1alpha1.KindEdgeDevice}:
		value = &v1alpha1.EdgeDevice{}
	case [2]string{v1alpha1.APIVersion, v1alpha1.KindEdgeDeviceSet}:
		value = &v1alpha1.EdgeDeviceSet{}
	case [2]string{v1alpha1.APIVersion, v1alpha1.KindEdgeDeviceSignedRequest}:
		value = &v1alpha1.EdgeDeviceSignedRequest{}
	case [2]string{v1alpha1.APIVersion, v1alpha1.KindEdgeWorkload}:
		value = &v1alpha1.EdgeWorkload{}
	case [2]string{v1alpha1.APIVersion, v1alpha1.KindEdgeConfig}:
		value = &v1alpha1.EdgeConfig{}
	case [2]string{coreVersion, kindConfigMap}:
		value = &corev1.ConfigMap{}
	case [2]string{coreVersion, kindSecret}:
		value = &corev1.Secret{}
	case [2]string{v1alpha1.APIVersion, v1alpha1.KindPlaybookExecution}:
		return nil, fmt.Errorf("a %s follows from an %s and the labels of devices and cannot be made by hand", meta.Kind, v1alpha1.KindEdgeConfig)
	case [2]string{"", ""}:
		return nil, errors.New("apiVersion and kind are missing")
	default:
		return nil, fmt.Errorf("kind %q of apiVersion %q is not one that the file backend reads", meta.Kind, meta.APIVersion)
	}
	if err := yaml.UnmarshalStrict(text, value); err != nil {
		return nil, fmt.Errorf("decode %s: %w", meta.Kind, err)
	}
	return value, nil
}

// validateObject checks what would make an object useless or dangerous.
func validateObject(value metav1.Object) error {
	if value.GetName() == "" {
		return errors.New("metadata.name is missing")
	}
	if msgs := validation.IsDNS1123Subdomain(value.GetName()); len(msgs) > 0 {
		return fmt.Errorf("metadata.name %q: %s", value.GetName(), msgs[0])
	}
	if msgs := validation.IsDNS1123Label(value.GetNamespace()); len(msgs) > 0 {
		return fmt.Errorf("metadata.namespace %q: %s", value.GetNamespace(), msgs[0])
	}
	switch o := value.(type) {
	case *v1alpha1.EdgeWorkload:
		return validateWorkload(o)
	case *v1alpha1.EdgeConfig:
		return validateConfig(o)
	case *v1alpha1.EdgeDevice:
		return validateDeviceName(o.Name)
	case *v1alpha1.EdgeDeviceSignedRequest:
		if msgs := validation.IsDNS1123Label(o.Spec.TargetNamespace); len(msgs) > 0 {
			return fmt.Errorf("spec.targetNamespace %q: %s", o.Spec.TargetNamespace, msgs[0])
		}
		return validateDeviceName(o.Name)
	}
	return nil
}

func validateDeviceName(name string) error {
	if len(name) > validation.LabelValueMaxLength {
		return fmt.Errorf("metadata.name has %d bytes, at most %d are possible for a device", len(name), validation.LabelValueMaxLength)
	}
	return nil
}

func validateWorkload(w *v1alpha1.EdgeWorkload) error {
	if len(w.Name) > validation.LabelValueMaxLength {
		return fmt.Errorf("metadata.name has %d bytes, at most %d are possible for a workload", len(w.Name), validation.LabelValueMaxLength)
	}
	if w.Spec.Type != "" && w.Spec.Type != v1alpha1.WorkloadTypePod {
		return fmt.Errorf("spec.type %q: only %q is possible", w.Spec.Type, v1alpha1.WorkloadTypePod)
	}
	if w.Spec.DeviceSelector != nil {
		if _, err := metav1.LabelSelectorAsSelector(w.Spec.DeviceSelector); err != nil {
			return fmt.Errorf("spec.deviceSelector: %w", err)
		}
	}
	if w.Spec.Pod == nil {
		return errors.New("spec.pod is missing")
	}
	spec, err := w.Spec.Pod.Spec.Decode()
	if err != nil {
		return fmt.Errorf("spec.pod.spec: %w", err)
	}
	if len(spec.Containers) == 0 {
		return errors.New("spec.pod.spec.containers is empty")
	}
	return nil
}

type document struct {
	text []byte
	line int
}

// splitDocuments cuts a YAML stream at the lines that start with three dashes,
// which nothing within a document can. JSON has none of them.
func splitDocuments(data []byte) []document {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var docs []document
	start, startLine, line := 0, 1, 0
	for pos := 0; pos < len(data); {
		line++
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		if isSeparator(data[pos:end]) {
			docs = append(docs, document{text: data[start:pos], line: startLine})
			start, startLine = pos+len("---"), line
		}
		pos = end
	}
	docs = append(docs, document{text: data[start:], line: startLine})
	out := docs[:0]
	for _, doc := range docs {
		if len(bytes.TrimSpace(doc.text)) > 0 {
			out = append(out, doc)
		}
	}
	return out
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// inForce returns the objects that count for a file whose current text gave
// objects and broken, and which had previous in force. A broken document leaves
// what it described as it was; when it does not say what it describes, that may
// be anything that is not there any more.
func inForce(previous, objects []object, broken []brokenDocument) []object {
	if len(broken) == 0 {
		return objects
	}
	present := make(map[objectKey]bool, len(objects))
	for _, o := range objects {
		present[o.key] = true
	}
	kept := make(map[objectKey]bool)
	anything := false
	for _, b := range broken {
		kept[b.key] = true
		anything = anything || b.key == objectKey{}
	}
	result := append([]object(nil), objects...)
	for _, o := range previous {
		if !present[o.key] && (anything || kept[o.key]) {
			result = append(result, o)
		}
	}
	return result
}
