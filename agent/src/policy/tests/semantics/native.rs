//! Native documents.

use super::Group;

pub(super) const GROUPS: &[Group] = &[
    Group {
        about: "no document",
        documents: "",
        rows: "
            in  web     api:80/tcp   allow -
            in  world   api:80/tcp   allow -
            out api     world:80/tcp allow -
        ",
    },
    Group {
        about: "an allow by namespace and port",
        documents: "
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: p, namespace: data }
spec:
  selector: { app: db }
  ingress:
    - name: shop
      from: [ { namespace: shop } ]
      ports: [ 5432/tcp ]
",
        rows: "
            in  web       db:5432/tcp     allow data/p#shop
            in  api       db:5432/tcp     allow data/p#shop
            in  web       db:5433/tcp     deny  data/p
            in  web       db:5432/udp     deny  data/p
            in  pay       db:5432/tcp     deny  data/p
            in  twin      db:5432/tcp     deny  data/p
            in  unknown   db:5432/tcp     deny  data/p
            in  world     db:5432/tcp     deny  data/p
            in  host      db:5432/tcp     deny  data/p
            in  unmanaged db:5432/tcp     deny  data/p
            in  web       cache:5432/tcp  allow -
            in  web       api:5432/tcp    allow -
            out db        web:80/tcp      allow -
        ",
    },
    Group {
        about: "deny wins, audit is beside, defaults",
        documents: "
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: a, namespace: shop }
spec:
  selector: { app: api }
  ingress:
    - { name: all, from: [ { entity: any-authenticated } ] }
    - { name: not-batch, action: deny, from: [ { labels: { app: batch } } ] }
---
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: try, namespace: shop }
spec:
  mode: audit
  selector: { app: api }
  ingress: [ { name: front, action: deny, from: [ { labels: { tier: front } } ] } ]
---
apiVersion: waxseal.dev/v1alpha1
kind: Namespace
metadata: { name: payments }
spec: { defaultDeny: true }
",
        rows: "
            in  web    api:80/tcp  audit shop/try#front
            in  pay    api:80/tcp  audit shop/try#front
            in  db     api:80/tcp  allow shop/a#all
            in  batch  api:80/tcp  deny  shop/a#not-batch
            in  world  api:80/tcp  deny  shop/a
            in  web    pay:80/tcp  deny  payments
            out pay    web:80/tcp  deny  payments
        ",
    },
    Group {
        about: "egress by identity, address and entity",
        documents: "
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: out, namespace: shop }
spec:
  selector: { app: web }
  egress:
    - { name: api, to: [ { identity: 'spiffe://cluster.local/ns/shop/sa/api' } ], ports: [ 8080/tcp ] }
    - { name: bank, to: [ { cidr: 203.0.113.0/24, except: [ 203.0.113.128/25 ] } ], ports: [ 443/tcp ] }
    - { name: data, to: [ { trustDomain: cluster.local, namespace: data, not: { labels: { app: cache } } } ] }
    - { name: names, ports: [ 53/udp ] }
",
        rows: "
            out web  api:8080/tcp               allow shop/out#api
            out web  api:8081/tcp               deny  shop/out
            out web  batch:8080/tcp             deny  shop/out
            out web  world:443/tcp              allow shop/out#bank
            out web  world@203.0.113.200:443/tcp deny shop/out
            out web  world@198.51.100.1:443/tcp deny  shop/out
            out web  world6:443/tcp             deny  shop/out
            out web  db:5432/tcp                allow shop/out#data
            out web  cache:5432/tcp             deny  shop/out
            out web  cache:53/udp               allow shop/out#names
            out web  world:53/udp               allow shop/out#names
            out web  world:53/tcp               deny  shop/out
            in  web  api:1/tcp                  allow -
            out api  world:443/tcp              allow -
        ",
    },
];
