{{/* Metadata of an object: name, namespace, labels. Takes root, name, values (of its kind), labels (of its file). */}}
{{- define "jitwatch.metadata" -}}
{{- $own := dict "app.kubernetes.io/name" "jitwatch" "app.kubernetes.io/instance" .root.Release.Name "app.kubernetes.io/managed-by" .root.Release.Service "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
name: {{ .name }}
namespace: {{ .values.namespace | default .root.Release.Namespace }}
labels:
  {{- merge (dict) .values.labels .root.Values.labels $own | toYaml | nindent 2 }}
{{- end }}

{{/* Content of a YAML file of the chart. Takes root, path. */}}
{{- define "jitwatch.file" -}}
{{- $text := .root.Files.Get .path -}}
{{- if not $text }}{{ fail (printf "%s is missing from the chart" .path) }}{{ end -}}
{{- $text -}}
{{- end }}
