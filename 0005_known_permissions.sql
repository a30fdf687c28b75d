INSERT INTO permissions (name)
VALUES ('personas.create'), ('personas.delete'), ('projects.manage'), ('admin.users'), ('admin.subscriptions'), ('*')
