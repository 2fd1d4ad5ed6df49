//! `PeerAuthentication` of Istio.

use super::Group;

pub(super) const GROUPS: &[Group] = &[
    Group {
        about: "STRICT for the mesh",
        documents: "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: istio-system }
spec: { mtls: { mode: STRICT } }
",
        rows: "
            in  web       api:80/tcp    allow -
            in  twin      db:80/tcp     allow -
            in  odd       pay:80/udp    allow -
            in  unknown   api:80/tcp    deny  istio-system/default#STRICT
            in  world     api:80/tcp    deny  istio-system/default#STRICT
            in  world     db:53/udp     deny  istio-system/default#STRICT
            in  host      pay:80/tcp    deny  istio-system/default#STRICT
            in  unmanaged odd:80/tcp    deny  istio-system/default#STRICT
            out api       world:80/tcp  allow -
            out api       unknown:80/tcp allow -
        ",
    },
    Group {
        about: "workload before namespace before mesh",
        documents: "
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: { name: default, namespace: istio-system }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: { name: open, namespace: shop }
spec: { mtls: { mode: PERMISSIVE } }
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: { name: api, namespace: shop }
spec: { selector: { matchLabels: { app: api } }, mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: { name: db, namespace: data }
spec: { selector: { matchLabels: { app: db } }, mtls: { mode: DISABLE } }
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: { name: unset, namespace: payments }
spec: { mtls: { mode: UNSET } }
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: { name: silent, namespace: ext }
spec: { selector: { matchLabels: { app: odd } } }
",
        rows: "
            in  unknown web:80/tcp    allow -
            in  unknown batch:80/tcp  allow -
            in  unknown api:80/tcp    deny  shop/api#STRICT
            in  batch   api:80/tcp    allow -
            in  unknown db:80/tcp     allow -
            in  unknown cache:80/tcp  deny  istio-system/default#STRICT
            in  unknown pay:80/tcp    deny  istio-system/default#STRICT
            in  unknown odd:80/tcp    deny  istio-system/default#STRICT
            in  unknown twin:80/tcp   deny  istio-system/default#STRICT
        ",
    },
    Group {
        about: "ports of a workload",
        documents: "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: shop, namespace: shop }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: api, namespace: shop }
spec:
  selector: { matchLabels: { app: api } }
  portLevelMtls: { 8080: { mode: DISABLE }, 8081: { mode: UNSET } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: db, namespace: data }
spec:
  selector: { matchLabels: { app: db } }
  mtls: { mode: PERMISSIVE }
  portLevelMtls: { 5432: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: web, namespace: shop }
spec:
  selector: { matchLabels: { app: web } }
  mtls: { mode: STRICT }
  portLevelMtls: { 80: { mode: PERMISSIVE }, 443: { mode: PERMISSIVE } }
",
        rows: "
            in  unknown api:8080/tcp  allow -
            in  unknown api:8080/udp  deny  shop/api#STRICT
            in  unknown api:8081/tcp  deny  shop/api#STRICT
            in  unknown api:80/tcp    deny  shop/api#STRICT
            in  web     api:80/tcp    allow -
            in  unknown db:5432/tcp   deny  data/db#STRICT
            in  unknown db:5433/tcp   allow -
            in  unknown db:5432/udp   allow -
            in  web     db:5432/tcp   allow -
            in  unknown web:80/tcp    allow -
            in  unknown web:443/tcp   allow -
            in  unknown web:444/tcp   deny  shop/web#STRICT
            in  unknown web:79/tcp    deny  shop/web#STRICT
            in  unknown web:icmp      deny  shop/web#STRICT
            in  unknown batch:80/tcp  deny  shop/shop#STRICT
            in  unknown pay:80/tcp    allow -
        ",
    },
    Group {
        about: "the oldest of one level, and a selector in the root namespace",
        documents: "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: a-young, namespace: shop, creationTimestamp: '2024-05-01T00:00:00Z' }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: b-old, namespace: shop, creationTimestamp: '2023-05-01T00:00:00Z' }
spec: { mtls: { mode: PERMISSIVE } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: fronts, namespace: istio-system, creationTimestamp: '2022-01-01T00:00:00Z' }
spec: { selector: { matchLabels: { tier: front } }, portLevelMtls: { 80: { mode: STRICT } } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: web, namespace: shop, creationTimestamp: '2023-01-01T00:00:00Z' }
spec: { selector: { matchLabels: { app: web } }, mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: pay, namespace: payments }
spec: { mtls: { mode: STRICT } }
",
        rows: "
            in  unknown api:80/tcp    allow -
            in  unknown web:80/tcp    deny  istio-system/fronts#STRICT
            in  unknown web:81/tcp    allow -
            in  unknown twin:80/tcp   deny  istio-system/fronts#STRICT
            in  unknown twin:81/tcp   allow -
            in  unknown pay:80/tcp    deny  payments/pay#STRICT
            in  unknown pay:81/tcp    deny  payments/pay#STRICT
            in  web     pay:81/tcp    allow -
        ",
    },
    Group {
        about: "STRICT beside an ALLOW: both must let pass",
        documents: "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: p, namespace: shop }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: a, namespace: shop }
spec:
  rules: [ { from: [ { source: { ipBlocks: [ 10.0.0.0/8 ] } } ] } ]
",
        rows: "
            in  db      api:80/tcp    allow shop/a#rules[0]
            in  unknown api:80/tcp    deny  shop/p#STRICT
            in  world   api:80/tcp    deny  shop/p#STRICT
            in  db@203.0.113.1 api:80/tcp deny shop/a
        ",
    },
];
